#!lua flags=allow-oom
-- Postgres has these entries of the journal now: keys that have not changed since are clean.
-- KEYS: the journal's state, the journal; then value, mark, aside of each key. ARGV: the last of the entries,
-- empty where they are not to go yet; the first of them, what comes next after the last, and how many changes
-- they are; then for each key the id of its newest entry among them, how long its
-- copy lives and how long it is known to be absent (ms), the latter 'drop' where Postgres refused it.
-- What is known in part (':p') goes: Postgres has the whole.
touch(3, 3)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local at = 5
for i = 3, #KEYS, 3 do
  local value, mark, id = KEYS[i], KEYS[i + 1], ARGV[at]
  local ttl_ms, negative_ttl_ms = tonumber(ARGV[at + 1]), ARGV[at + 2]
  at = at + 3
  local held = redis.call('GET', mark)
  if held == 'd:' .. id .. ':p' or held == 'gone:' .. id .. ':p' then
    redis.call('UNLINK', value, mark, KEYS[i + 2])
  elseif held == 'd:' .. id or held == 'gone:' .. id then
    if negative_ttl_ms == 'drop' then
      redis.call('UNLINK', value, mark, KEYS[i + 2])
    elseif held == 'd:' .. id then
      redis.call('DEL', mark)
      -- Even: it is not the key's own end.
      local ends_at = now_ms + ttl_ms
      redis.call('PEXPIREAT', value, string.format('%.0f', ends_at - ends_at % 2))
    else
      redis.call('SET', mark, 'gone', 'PX', negative_ttl_ms)
    end
  end
end
if ARGV[1] ~= '' then
  -- Entries go in their order, so all that come before it are among them.
  local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
  if first and first[1] == ARGV[2] then
    redis.call('XTRIM', KEYS[2], 'MINID', ARGV[3])
    redis.call('HINCRBY', KEYS[1], 'changes', -tonumber(ARGV[4]))
    return 0
  end
  -- A part of them has gone: they were told to go before.
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', ARGV[1])) do
    redis.call('XDEL', KEYS[2], entry[1])
    -- Its fields are 'at', 'changes', 'keys'.
    redis.call('HINCRBY', KEYS[1], 'changes', -tonumber(entry[2][4]))
  end
end
return 0
