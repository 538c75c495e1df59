#!lua
-- Values become whole in Redis, as they may stay when it alone has them. Whoever calls holds the keys' locks and has
-- read their rows under them; but Postgres does not have what dirty keys hold: those stay as they are.
-- A key that was touched since it was taken to be put stays as it is, too: this may come late, when the lock is gone.
-- KEYS: who completes, what is touched, where ends are to be mended; then value, mark, aside of each key, and where its
-- value was put before.
-- ARGV: who completes, as KEYS[1] has to say still, and for how many ms from now on; 'last' where nobody is at the keys any
-- more, else 'open'; then for each key 'hash' or 'set', or 'before' where the value was put before, or 'none';
-- its own end in ms, or an empty text; count of what comes; field, value … or member ….
-- Answers LOST where somebody else completes, or nobody; else the numbers (from 0) of the keys that stay as they are.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 'LOST'
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], 3600000)
redis.call('PEXPIRE', KEYS[3], 86400000)
local left = {}
local at = 4
for i = 4, #KEYS, 4 do
  local value, mark, aside, before = KEYS[i], KEYS[i + 1], KEYS[i + 2], KEYS[i + 3]
  local mode, own_end, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local first, last = at + 3, at + 2 + count
  at = last + 1
  local held = redis.call('GET', mark)
  local is_dirty = held and (string.sub(held, 1, 2) == 'd:' or string.sub(held, 1, 5) == 'gone:')
  if is_dirty or redis.call('SISMEMBER', KEYS[2], value) == 1 then
    redis.call('SADD', KEYS[2], value)
    redis.call('PEXPIRE', KEYS[2], 3600000)
    left[#left + 1] = (i - 4) / 4
    redis.call('UNLINK', before)
  else
    redis.call('UNLINK', value, mark, aside)
    if mode == 'before' then
      redis.call('RENAME', before, value)
      redis.call('PERSIST', value)
    else
      local add = mode == 'set' and 'SADD' or 'HSET'
      for from = first, last, 1000 do
        redis.call(add, value, unpack(ARGV, from, math.min(from + 999, last)))
      end
    end
    redis.call('SREM', KEYS[3], value)
    if mode ~= 'none' and own_end ~= '' then
      -- An odd end is the key's own (see engine::copy), as long as others go by it.
      if ARGV[3] == 'open' and tonumber(own_end) % 2 == 0 then
        redis.call('SADD', KEYS[3], value)
        redis.call('PEXPIRE', KEYS[3], 86400000)
        own_end = string.format('%.0f', tonumber(own_end) - 1)
      end
      redis.call('PEXPIREAT', value, own_end)
    end
  end
end
return left
