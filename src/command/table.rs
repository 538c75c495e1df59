//! The command table: every command of Redis 7.0, and those of newer servers that touch keys.
//!
//! Routing, key positions, refusals, metric labels and docs/commands.md are read from it. Names,
//! arities, flags and key positions are those of Redis 7.0.15 (`tests/command_table.rs` compares
//! them with a running server), with four intended differences:
//! - RESPGRES is our own.
//! - A command with subcommands (OBJECT, XINFO, …) is one row; its key is argument 2.
//! - The channels of SPUBLISH, SSUBSCRIBE and SUNSUBSCRIBE are not keys, though Redis counts them
//!   as such to find their cluster slot.
//! - MSETEX counts every second argument as a key: some of them are options, none is missed.
//!
//! Absent on purpose: commands of modules. What is not here is unknown.

use super::Keys::{self, *};
use super::Mapped::{self, Lent, NotApplicable, Read, Refused, Watched, Write};
use super::Path::{
    self, Blocking, Flush, Forward, Info, Keyspace, Local, Script, Stream, Subscription,
    Transaction,
};
use super::{Command, Flags, Guarded, hash, key, set};

/// All commands.
#[rustfmt::skip]
pub static COMMANDS: &[Command] = &[
    //  name                   arity flags                               keys           unmapped      mapped
    // Strings
    row("append",                 3, GROW | FAST,                         First,         Forward,      Lent),
    row("decr",                   2, GROW | FAST,                         First,         Forward,      Lent),
    row("decrby",                 3, GROW | FAST,                         First,         Forward,      Lent),
    row("get",                    2, READ | FAST,                         First,         Forward,      Lent),
    row("getdel",                 2, WRITE | FAST,                        First,         Forward,      Lent),
    row("getex",                 -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("getrange",               4, READ,                                First,         Forward,      Lent),
    row("getset",                 3, GROW | FAST,                         First,         Forward,      Lent),
    row("incr",                   2, GROW | FAST,                         First,         Forward,      Lent),
    row("incrby",                 3, GROW | FAST,                         First,         Forward,      Lent),
    row("incrbyfloat",            3, GROW | FAST,                         First,         Forward,      Lent),
    row("lcs",                   -3, READ,                                TWO,           Forward,      Lent),
    row("mget",                  -2, READ | FAST,                         ALL,           Forward,      Lent),
    row("mset",                  -3, GROW,                                PAIRS,         Forward,      Lent),
    row("msetnx",                -3, GROW,                                PAIRS,         Forward,      Lent),
    row("psetex",                 4, GROW,                                First,         Forward,      Lent),
    row("set",                   -3, GROW,                                First,         Forward,      Lent),
    row("setex",                  4, GROW,                                First,         Forward,      Lent),
    row("setnx",                  3, GROW | FAST,                         First,         Forward,      Lent),
    row("setrange",               4, GROW,                                First,         Forward,      Lent),
    row("strlen",                 2, READ | FAST,                         First,         Forward,      Lent),
    row("substr",                 4, READ,                                First,         Forward,      Lent),
    // Bitmaps
    row("bitcount",              -2, READ,                                First,         Forward,      Lent),
    row("bitfield",              -2, GROW,                                First,         Forward,      Lent),
    row("bitfield_ro",           -2, READ | FAST,                         First,         Forward,      Lent),
    row("bitop",                 -4, GROW,                                FROM_SECOND,   Forward,      Lent),
    row("bitpos",                -3, READ,                                First,         Forward,      Lent),
    row("getbit",                 3, READ | FAST,                         First,         Forward,      Lent),
    row("setbit",                 4, GROW,                                First,         Forward,      Lent),
    // Keys of any type
    row("copy",                  -3, GROW,                                TWO,           Forward,      Lent),
    row("del",                   -2, WRITE,                               ALL,           Forward,      Write(key::DELETE)),
    row("dump",                   2, READ,                                First,         Forward,      Lent),
    row("exists",                -2, READ | FAST,                         ALL,           Forward,      Read(key::EXISTS)),
    row("expire",                -3, WRITE | FAST,                        First,         Forward,      Write(key::EXPIRE)),
    row("expireat",              -3, WRITE | FAST,                        First,         Forward,      Write(key::EXPIREAT)),
    row("expiretime",             2, READ | FAST,                         First,         Forward,      Read(key::EXPIRETIME)),
    row("migrate",               -6, WRITE,                               Migrate,       Forward,      Refused(ELSEWHERE)),
    row("move",                   3, WRITE | FAST,                        First,         Forward,      Refused(ELSEWHERE)),
    row("object",                -2, NONE,                                SECOND,        Forward,      Lent),
    row("persist",                2, WRITE | FAST,                        First,         Forward,      Write(key::PERSIST)),
    row("pexpire",               -3, WRITE | FAST,                        First,         Forward,      Write(key::PEXPIRE)),
    row("pexpireat",             -3, WRITE | FAST,                        First,         Forward,      Write(key::PEXPIREAT)),
    row("pexpiretime",            2, READ | FAST,                         First,         Forward,      Read(key::PEXPIRETIME)),
    row("pttl",                   2, READ | FAST,                         First,         Forward,      Read(key::PTTL)),
    row("rename",                 3, WRITE,                               TWO,           Forward,      Lent),
    row("renamenx",               3, WRITE | FAST,                        TWO,           Forward,      Lent),
    row("restore",               -4, GROW,                                First,         Forward,      Lent),
    row("restore-asking",        -4, GROW | ASKING,                       First,         Forward,      Lent),
    row("sort",                  -2, GROW,                                Sort,          Forward,      Lent),
    row("sort_ro",               -2, READ,                                Sort,          Forward,      Lent),
    row("touch",                 -2, READ | FAST,                         ALL,           Forward,      Read(key::EXISTS)),
    row("ttl",                    2, READ | FAST,                         First,         Forward,      Read(key::TTL)),
    row("type",                   2, READ | FAST,                         First,         Forward,      Read(key::TYPE)),
    row("unlink",                -2, WRITE | FAST,                        ALL,           Forward,      Write(key::DELETE)),
    // Hashes
    row("hdel",                  -3, WRITE | FAST,                        First,         Forward,      Write(hash::DELETE)),
    row("hexists",                3, READ | FAST,                         First,         Forward,      Read(hash::EXISTS)),
    row("hget",                   3, READ | FAST,                         First,         Forward,      Read(hash::GET)),
    row("hgetall",                2, READ,                                First,         Forward,      Read(hash::GET_ALL)),
    row("hincrby",                4, GROW | FAST,                         First,         Forward,      Write(hash::INCREMENT)),
    row("hincrbyfloat",           4, GROW | FAST,                         First,         Forward,      Write(hash::INCREMENT_FLOAT)),
    row("hkeys",                  2, READ,                                First,         Forward,      Read(hash::FIELDS)),
    row("hlen",                   2, READ | FAST,                         First,         Forward,      Read(hash::LENGTH)),
    row("hmget",                 -3, READ | FAST,                         First,         Forward,      Read(hash::MULTI_GET)),
    row("hmset",                 -4, GROW | FAST,                         First,         Forward,      Write(hash::MULTI_SET)),
    row("hrandfield",            -2, READ,                                First,         Forward,      Read(hash::RANDOM)),
    row("hscan",                 -3, READ,                                First,         Forward,      Read(hash::SCAN)),
    row("hset",                  -4, GROW | FAST,                         First,         Forward,      Write(hash::SET)),
    row("hsetnx",                 4, GROW | FAST,                         First,         Forward,      Write(hash::SET_IF_ABSENT)),
    row("hstrlen",                3, READ | FAST,                         First,         Forward,      Read(hash::VALUE_LENGTH)),
    row("hvals",                  2, READ,                                First,         Forward,      Read(hash::VALUES)),
    // Lists
    row("blmove",                 6, GROW | BLOCKING | NO_SCRIPT,         TWO,           Blocking,     Lent),
    row("blmpop",                -5, WRITE | BLOCKING,                    counted(2),    Blocking,     Lent),
    row("blpop",                 -3, WRITE | BLOCKING | NO_SCRIPT,        ALL_BUT_LAST,  Blocking,     Lent),
    row("brpop",                 -3, WRITE | BLOCKING | NO_SCRIPT,        ALL_BUT_LAST,  Blocking,     Lent),
    row("brpoplpush",             4, GROW | BLOCKING | NO_SCRIPT,         TWO,           Blocking,     Lent),
    row("lindex",                 3, READ,                                First,         Forward,      Lent),
    row("linsert",                5, GROW,                                First,         Forward,      Lent),
    row("llen",                   2, READ | FAST,                         First,         Forward,      Lent),
    row("lmove",                  5, GROW,                                TWO,           Forward,      Lent),
    row("lmpop",                 -4, WRITE,                               counted(1),    Forward,      Lent),
    row("lpop",                  -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("lpos",                  -3, READ,                                First,         Forward,      Lent),
    row("lpush",                 -3, GROW | FAST,                         First,         Forward,      Lent),
    row("lpushx",                -3, GROW | FAST,                         First,         Forward,      Lent),
    row("lrange",                 4, READ,                                First,         Forward,      Lent),
    row("lrem",                   4, WRITE,                               First,         Forward,      Lent),
    row("lset",                   4, GROW,                                First,         Forward,      Lent),
    row("ltrim",                  4, WRITE,                               First,         Forward,      Lent),
    row("rpop",                  -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("rpoplpush",              3, GROW,                                TWO,           Forward,      Lent),
    row("rpush",                 -3, GROW | FAST,                         First,         Forward,      Lent),
    row("rpushx",                -3, GROW | FAST,                         First,         Forward,      Lent),
    // Sets
    row("sadd",                  -3, GROW | FAST,                         First,         Forward,      Write(set::ADD)),
    row("scard",                  2, READ | FAST,                         First,         Forward,      Read(set::CARDINALITY)),
    row("sdiff",                 -2, READ,                                ALL,           Forward,      Lent),
    row("sdiffstore",            -3, GROW,                                ALL,           Forward,      Lent),
    row("sinter",                -2, READ,                                ALL,           Forward,      Lent),
    row("sintercard",            -3, READ,                                counted(1),    Forward,      Lent),
    row("sinterstore",           -3, GROW,                                ALL,           Forward,      Lent),
    row("sismember",              3, READ | FAST,                         First,         Forward,      Read(set::IS_MEMBER)),
    row("smembers",               2, READ,                                First,         Forward,      Read(set::MEMBERS)),
    row("smismember",            -3, READ | FAST,                         First,         Forward,      Read(set::ARE_MEMBERS)),
    row("smove",                  4, WRITE | FAST,                        TWO,           Forward,      Lent),
    row("spop",                  -2, WRITE | FAST,                        First,         Forward,      Write(set::POP)),
    row("srandmember",           -2, READ,                                First,         Forward,      Read(set::RANDOM)),
    row("srem",                  -3, WRITE | FAST,                        First,         Forward,      Write(set::REMOVE)),
    row("sscan",                 -3, READ,                                First,         Forward,      Read(set::SCAN)),
    row("sunion",                -2, READ,                                ALL,           Forward,      Lent),
    row("sunionstore",           -3, GROW,                                ALL,           Forward,      Lent),
    // Sorted sets
    row("bzmpop",                -5, WRITE | BLOCKING,                    counted(2),    Blocking,     Lent),
    row("bzpopmax",              -3, WRITE | FAST | BLOCKING | NO_SCRIPT, ALL_BUT_LAST,  Blocking,     Lent),
    row("bzpopmin",              -3, WRITE | FAST | BLOCKING | NO_SCRIPT, ALL_BUT_LAST,  Blocking,     Lent),
    row("zadd",                  -4, GROW | FAST,                         First,         Forward,      Lent),
    row("zcard",                  2, READ | FAST,                         First,         Forward,      Lent),
    row("zcount",                 4, READ | FAST,                         First,         Forward,      Lent),
    row("zdiff",                 -3, READ,                                counted(1),    Forward,      Lent),
    row("zdiffstore",            -4, GROW,                                STORE_COUNTED, Forward,      Lent),
    row("zincrby",                4, GROW | FAST,                         First,         Forward,      Lent),
    row("zinter",                -3, READ,                                counted(1),    Forward,      Lent),
    row("zintercard",            -3, READ,                                counted(1),    Forward,      Lent),
    row("zinterstore",           -4, GROW,                                STORE_COUNTED, Forward,      Lent),
    row("zlexcount",              4, READ | FAST,                         First,         Forward,      Lent),
    row("zmpop",                 -4, WRITE,                               counted(1),    Forward,      Lent),
    row("zmscore",               -3, READ | FAST,                         First,         Forward,      Lent),
    row("zpopmax",               -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("zpopmin",               -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("zrandmember",           -2, READ,                                First,         Forward,      Lent),
    row("zrange",                -4, READ,                                First,         Forward,      Lent),
    row("zrangebylex",           -4, READ,                                First,         Forward,      Lent),
    row("zrangebyscore",         -4, READ,                                First,         Forward,      Lent),
    row("zrangestore",           -5, GROW,                                TWO,           Forward,      Lent),
    row("zrank",                  3, READ | FAST,                         First,         Forward,      Lent),
    row("zrem",                  -3, WRITE | FAST,                        First,         Forward,      Lent),
    row("zremrangebylex",         4, WRITE,                               First,         Forward,      Lent),
    row("zremrangebyrank",        4, WRITE,                               First,         Forward,      Lent),
    row("zremrangebyscore",       4, WRITE,                               First,         Forward,      Lent),
    row("zrevrange",             -4, READ,                                First,         Forward,      Lent),
    row("zrevrangebylex",        -4, READ,                                First,         Forward,      Lent),
    row("zrevrangebyscore",      -4, READ,                                First,         Forward,      Lent),
    row("zrevrank",               3, READ | FAST,                         First,         Forward,      Lent),
    row("zscan",                 -3, READ,                                First,         Forward,      Lent),
    row("zscore",                 3, READ | FAST,                         First,         Forward,      Lent),
    row("zunion",                -3, READ,                                counted(1),    Forward,      Lent),
    row("zunionstore",           -4, GROW,                                STORE_COUNTED, Forward,      Lent),
    // Places
    row("geoadd",                -5, GROW,                                First,         Forward,      Lent),
    row("geodist",               -4, READ,                                First,         Forward,      Lent),
    row("geohash",               -2, READ,                                First,         Forward,      Lent),
    row("geopos",                -2, READ,                                First,         Forward,      Lent),
    row("georadius",             -6, GROW,                                GeoRadius,     Forward,      Lent),
    row("georadius_ro",          -6, READ,                                First,         Forward,      Lent),
    row("georadiusbymember",     -5, GROW,                                GeoRadius,     Forward,      Lent),
    row("georadiusbymember_ro",  -5, READ,                                First,         Forward,      Lent),
    row("geosearch",             -7, READ,                                First,         Forward,      Lent),
    row("geosearchstore",        -8, GROW,                                TWO,           Forward,      Lent),
    // Streams
    row("xack",                  -4, WRITE | FAST,                        First,         Forward,      Lent),
    row("xadd",                  -5, GROW | FAST,                         First,         Forward,      Lent),
    row("xautoclaim",            -6, WRITE | FAST,                        First,         Forward,      Lent),
    row("xclaim",                -6, WRITE | FAST,                        First,         Forward,      Lent),
    row("xdel",                  -3, WRITE | FAST,                        First,         Forward,      Lent),
    row("xgroup",                -2, NONE,                                SECOND,        Forward,      Lent),
    row("xinfo",                 -2, NONE,                                SECOND,        Forward,      Lent),
    row("xlen",                   2, READ | FAST,                         First,         Forward,      Lent),
    row("xpending",              -3, READ,                                First,         Forward,      Lent),
    row("xrange",                -4, READ,                                First,         Forward,      Lent),
    row("xread",                 -4, READ | BLOCKING,                     Streams,       Blocking,     Lent),
    row("xreadgroup",            -7, WRITE | BLOCKING,                    Streams,       Blocking,     Lent),
    row("xrevrange",             -4, READ,                                First,         Forward,      Lent),
    row("xsetid",                -3, GROW | FAST,                         First,         Forward,      Lent),
    row("xtrim",                 -4, WRITE,                               First,         Forward,      Lent),
    // HyperLogLogs
    row("pfadd",                 -2, GROW | FAST,                         First,         Forward,      Lent),
    row("pfcount",               -2, READ,                                ALL,           Forward,      Lent),
    row("pfdebug",                3, GROW | ADMIN,                        SECOND,        Forward,      Lent),
    row("pfmerge",               -2, GROW,                                ALL,           Forward,      Lent),
    row("pfselftest",             1, ADMIN,                               None,          Forward,      NotApplicable),
    // Publish and subscribe
    row("psubscribe",            -2, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    row("publish",                3, FAST | PUBSUB | LOADING | STALE,     None,          Forward,      NotApplicable),
    row("pubsub",                -2, NONE,                                None,          Forward,      NotApplicable),
    row("punsubscribe",          -1, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    row("spublish",               3, FAST | PUBSUB | LOADING | STALE,     None,          Forward,      NotApplicable),
    row("ssubscribe",            -2, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    row("subscribe",             -2, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    row("sunsubscribe",          -1, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    row("unsubscribe",           -1, PUBSUB | ANY_TIME,                   None,          Subscription, NotApplicable),
    // Transactions
    row("discard",                1, FAST | ALLOW_BUSY | ANY_TIME,        None,          Transaction,  NotApplicable),
    row("exec",                   1, SKIP_SLOWLOG | ANY_TIME,             None,          Transaction,  NotApplicable),
    row("multi",                  1, FAST | ALLOW_BUSY | ANY_TIME,        None,          Transaction,  NotApplicable),
    row("unwatch",                1, FAST | ALLOW_BUSY | ANY_TIME,        None,          Transaction,  NotApplicable),
    row("watch",                 -2, FAST | ALLOW_BUSY | ANY_TIME,        ALL,           Transaction,  Watched),
    // Scripts
    row("eval",                  -3, RUN_SCRIPT,                          counted(2),    Script,       Lent),
    row("eval_ro",               -3, READ | RUN_SCRIPT,                   counted(2),    Script,       Lent),
    row("evalsha",               -3, RUN_SCRIPT,                          counted(2),    Script,       Lent),
    row("evalsha_ro",            -3, READ | RUN_SCRIPT,                   counted(2),    Script,       Lent),
    row("fcall",                 -3, RUN_SCRIPT,                          counted(2),    Script,       Lent),
    row("fcall_ro",              -3, READ | RUN_SCRIPT,                   counted(2),    Script,       Lent),
    row("function",              -2, NONE,                                None,          Blocking,     NotApplicable),
    row("script",                -2, NONE,                                None,          Blocking,     NotApplicable),
    // Connections
    row("asking",                 1, FAST,                                None,          Local,        NotApplicable),
    row("auth",                  -2, FAST | HANDSHAKE,                    None,          Local,        NotApplicable),
    row("client",                -2, NONE,                                None,          Local,        NotApplicable),
    row("echo",                   2, FAST | LOADING | STALE,              None,          Forward,      NotApplicable),
    row("hello",                 -1, FAST | HANDSHAKE,                    None,          Local,        NotApplicable),
    row("ping",                  -1, FAST,                                None,          Forward,      NotApplicable),
    row("quit",                  -1, FAST | HANDSHAKE,                    None,          Local,        NotApplicable),
    row("readonly",               1, FAST | LOADING | STALE,              None,          Local,        NotApplicable),
    row("readwrite",              1, FAST | LOADING | STALE,              None,          Local,        NotApplicable),
    row("reset",                  1, FAST | HANDSHAKE,                    None,          Local,        NotApplicable),
    row("select",                 2, FAST | LOADING | STALE,              None,          Local,        NotApplicable),
    // Keyspace
    row("dbsize",                 1, READ | FAST,                         None,          Keyspace,     NotApplicable),
    row("flushall",              -1, WRITE,                               None,          Flush,        NotApplicable),
    row("flushdb",               -1, WRITE,                               None,          Flush,        NotApplicable),
    row("keys",                   2, READ,                                None,          Keyspace,     NotApplicable),
    row("randomkey",              1, READ,                                None,          Keyspace,     NotApplicable),
    row("scan",                  -2, READ,                                None,          Keyspace,     NotApplicable),
    row("swapdb",                 3, WRITE | FAST,                        None,          Flush,        NotApplicable),
    // Server
    row("acl",                   -2, NONE,                                None,          Forward,      NotApplicable).guarding(ACL),
    row("bgrewriteaof",           1, ADMIN | WHEN_LOADED,                 None,          Forward,      NotApplicable),
    row("bgsave",                -1, ADMIN | WHEN_LOADED,                 None,          Forward,      NotApplicable),
    row("cluster",               -2, NONE,                                None,          Forward,      NotApplicable).guarding(CLUSTER),
    row("command",               -1, LOADING | STALE,                     None,          Forward,      NotApplicable),
    row("config",                -2, NONE,                                None,          Forward,      NotApplicable).guarding(CONFIG),
    row("debug",                 -2, ADMIN | ANY_TIME,                    None,          Blocking,     NotApplicable),
    row("failover",              -1, ADMIN | NO_SCRIPT | STALE,           None,          Blocking,     NotApplicable),
    row("info",                  -1, LOADING | STALE,                     None,          Info,         NotApplicable),
    row("lastsave",               1, FAST | LOADING | STALE,              None,          Forward,      NotApplicable),
    row("latency",               -2, NONE,                                None,          Forward,      NotApplicable).guarding(LATENCY),
    row("lolwut",                -1, READ | FAST,                         None,          Forward,      NotApplicable),
    row("memory",                -2, NONE,                                SECOND,        Forward,      Lent),
    row("module",                -2, NONE,                                None,          Forward,      NotApplicable).guarding(MODULE),
    row("monitor",                1, ADMIN | ANY_TIME,                    None,          Stream,       NotApplicable).open(),
    row("psync",                 -3, ADMIN | WHEN_LOADED | NO_MULTI,      None,          NO_REPLICAS,  NotApplicable),
    row("replconf",              -1, ADMIN | ALLOW_BUSY | ANY_TIME,       None,          NO_REPLICAS,  NotApplicable),
    row("replicaof",              3, ADMIN | STALE | WHEN_LOADED,         None,          Forward,      NotApplicable),
    row("role",                   1, FAST | ANY_TIME,                     None,          Forward,      NotApplicable),
    row("save",                   1, ADMIN | WHEN_LOADED | NO_MULTI,      None,          Forward,      NotApplicable),
    row("shutdown",              -1, ADMIN | NO_MULTI | ALLOW_BUSY | ANY_TIME, None,          Blocking,     NotApplicable),
    row("slaveof",                3, ADMIN | STALE | WHEN_LOADED,         None,          Forward,      NotApplicable),
    row("slowlog",               -2, NONE,                                None,          Forward,      NotApplicable).guarding(SLOWLOG),
    row("sync",                   1, ADMIN | WHEN_LOADED | NO_MULTI,      None,          NO_REPLICAS,  NotApplicable),
    row("time",                   1, FAST | LOADING | STALE,              None,          Forward,      NotApplicable),
    row("wait",                   3, NO_SCRIPT,                           None,          Blocking,     NotApplicable),
    // respgres itself
    row("respgres",              -2, NONE,                                None,          Local,        NotApplicable),
    // Newer than Redis 7.0: expiry and options of single fields
    row("hexpire",               -6, GROW | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hexpireat",             -6, GROW | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hexpiretime",           -5, READ | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hgetdel",               -5, WRITE | FAST,                        First,         Forward,      Refused(FIELDS)),
    row("hgetex",                -5, WRITE | FAST,                        First,         Forward,      Refused(FIELDS)),
    row("hpersist",              -5, WRITE | FAST,                        First,         Forward,      Refused(FIELDS)),
    row("hpexpire",              -6, GROW | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hpexpireat",            -6, GROW | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hpexpiretime",          -5, READ | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hpttl",                 -5, READ | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("hsetex",                -6, GROW | FAST,                         First,         Forward,      Refused(FIELDS)),
    row("httl",                  -5, READ | FAST,                         First,         Forward,      Refused(FIELDS)),
    // Newer than Redis 7.0: strings and streams
    row("delex",                 -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("delifeq",                3, WRITE | FAST,                        First,         Forward,      Lent),
    row("digest",                 2, READ | FAST,                         First,         Forward,      Lent),
    row("msetex",                -4, GROW,                                MSETEX,        Forward,      Lent),
    row("xackdel",               -6, WRITE | FAST,                        First,         Forward,      Lent),
    row("xcfgset",               -2, WRITE | FAST,                        First,         Forward,      Lent),
    row("xdelex",                -5, WRITE | FAST,                        First,         Forward,      Lent),
    // Newer than Redis 7.0: vector sets
    row("vadd",                  -5, GROW,                                First,         Forward,      Lent),
    row("vcard",                  2, READ | FAST,                         First,         Forward,      Lent),
    row("vdim",                   2, READ | FAST,                         First,         Forward,      Lent),
    row("vemb",                  -3, READ | FAST,                         First,         Forward,      Lent),
    row("vgetattr",               3, READ | FAST,                         First,         Forward,      Lent),
    row("vinfo",                  2, READ | FAST,                         First,         Forward,      Lent),
    row("vismember",              3, READ,                                First,         Forward,      Lent),
    row("vlinks",                -4, READ | FAST,                         First,         Forward,      Lent),
    row("vrandmember",           -2, READ,                                First,         Forward,      Lent),
    row("vrange",                -4, READ,                                First,         Forward,      Lent),
    row("vrem",                   3, WRITE,                               First,         Forward,      Lent),
    row("vsetattr",               4, WRITE | FAST,                        First,         Forward,      Lent),
    row("vsim",                  -4, READ,                                First,         Forward,      Lent),
    // Newer than Redis 7.0: the server
    row("waitaof",                4, BLOCKING | NO_SCRIPT,                None,          Blocking,     NotApplicable),
];

const fn row(
    name: &'static str,
    arity: i32,
    flags: u32,
    keys: Keys,
    path: Path,
    mapped: Mapped,
) -> Command {
    let is_admin = flags & ADMIN != 0;
    let guarded = if is_admin { Guarded::Whole } else { Guarded::Nothing };
    Command { name, arity, flags: Flags(flags), keys, path, mapped, guarded }
}

impl Command {
    /// It has subcommands that concern the server as a whole.
    const fn guarding(self, subcommands: &'static [(&'static str, i32)]) -> Self {
        Self { guarded: Guarded::Subcommands(subcommands), ..self }
    }

    /// For operators, says Redis; here it is for everybody.
    const fn open(self) -> Self {
        Self { guarded: Guarded::Nothing, ..self }
    }
}

// === flags ===

const NONE: u32 = 0;
const READ: u32 = Flags::READ.0;
const WRITE: u32 = Flags::WRITE.0;
const DENY_OOM: u32 = Flags::DENY_OOM.0;
const FAST: u32 = Flags::FAST.0;
const ADMIN: u32 = Flags::ADMIN.0;
const PUBSUB: u32 = Flags::PUBSUB.0;
const BLOCKING: u32 = Flags::BLOCKING.0;
const NO_SCRIPT: u32 = Flags::NO_SCRIPT.0;
const LOADING: u32 = Flags::LOADING.0;
const STALE: u32 = Flags::STALE.0;
const SKIP_SLOWLOG: u32 = Flags::SKIP_SLOWLOG.0;
const ASKING: u32 = Flags::ASKING.0;
const NO_ASYNC_LOADING: u32 = Flags::NO_ASYNC_LOADING.0;
const NO_MULTI: u32 = Flags::NO_MULTI.0;
const ALLOW_BUSY: u32 = Flags::ALLOW_BUSY.0;

/// A write that may need more memory.
const GROW: u32 = WRITE | DENY_OOM;
/// Not from a script, and not while Redis replaces its data.
const WHEN_LOADED: u32 = NO_SCRIPT | NO_ASYNC_LOADING;
const ANY_TIME: u32 = NO_SCRIPT | LOADING | STALE;
/// What a client may say before anything else.
const HANDSHAKE: u32 = Flags::NO_AUTH.0 | ALLOW_BUSY | ANY_TIME;
const RUN_SCRIPT: u32 = NO_SCRIPT | STALE | Flags::SKIP_MONITOR.0 | Flags::NO_MANDATORY_KEYS.0;

// === keys ===

const ALL: Keys = Range { first: 1, last: -1, step: 1 };
const ALL_BUT_LAST: Keys = Range { first: 1, last: -2, step: 1 };
const PAIRS: Keys = Range { first: 1, last: -1, step: 2 };
const TWO: Keys = Range { first: 1, last: 2, step: 1 };
const SECOND: Keys = Range { first: 2, last: 2, step: 1 };
const FROM_SECOND: Keys = Range { first: 2, last: -1, step: 1 };
const MSETEX: Keys = Range { first: 2, last: -1, step: 2 };
/// A destination, then a count and that many keys.
const STORE_COUNTED: Keys = Counted { count: 2, also: 1 };

/// The count at this argument, then that many keys.
const fn counted(count: u8) -> Keys {
    Counted { count, also: 0 }
}

// === subcommands that concern the server as a whole ===
//
// Those that Redis flags as `admin`, but for those that only look and that tools ask everywhere:
// CONFIG GET, LATENCY HISTORY, SLOWLOG GET, MODULE LIST, CLUSTER REPLICAS and their like. Nor is
// CLIENT among them, as it is about respgres' clients. What looks into ACL is: it shows hashes of
// passwords.

type Subcommands = &'static [(&'static str, i32)];

#[rustfmt::skip]
const ACL: Subcommands = &[
    ("deluser", -3), ("dryrun", -4), ("getuser", 3), ("list", 2), ("load", 2), ("log", -2), ("save", 2),
    ("setuser", -3), ("users", 2),
];
#[rustfmt::skip]
const CLUSTER: Subcommands = &[
    ("addslots", -3), ("addslotsrange", -4), ("bumpepoch", 2), ("delslots", -3), ("delslotsrange", -4),
    ("failover", -2), ("flushslots", 2), ("forget", 3), ("meet", -4), ("replicate", 3), ("reset", -2),
    ("saveconfig", 2), ("set-config-epoch", 3), ("setslot", -4),
];
const CONFIG: Subcommands = &[("resetstat", 2), ("rewrite", 2), ("set", -4)];
const LATENCY: Subcommands = &[("reset", -2)];
const MODULE: Subcommands = &[("load", -3), ("loadex", -3), ("unload", 3)];
const SLOWLOG: Subcommands = &[("reset", 2)];

// === why a mapped key is refused ===

const ELSEWHERE: &str = "it would leave Postgres";
const FIELDS: &str = "expiry and conditions of single fields are not mapped";

const NO_REPLICAS: Path = Path::Refused("a replica must connect to the Redis server itself");
