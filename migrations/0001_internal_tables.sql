-- What respgres keeps for itself, beside the mapped tables.

-- The keys' own expiry (EXPIRE, TTL) for mappings without an expires_at column.
create table respgres.expiry (
    mapping    text        not null,
    key        bytea       not null,
    expires_at timestamptz not null,
    primary key (mapping, key)
);

-- For the sweeper of expired rows.
create index expiry_by_time on respgres.expiry (mapping, expires_at);

-- Settings that all proxies share, such as a mapping's strategy switched at run time.
create table respgres.control (
    name       text        primary key,
    value      jsonb       not null,
    changed_at timestamptz not null default now()
);

-- Keys whose cached copy has to be dropped.
create table respgres.outbox (
    id         bigint      generated always as identity primary key,
    mapping    text        not null,
    key        bytea       not null,
    created_at timestamptz not null default now()
);
