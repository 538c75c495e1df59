#!lua
-- A reader did not find what it wanted: is the key itself there, known to be absent, or may this
-- reader fill it?
-- KEYS: value, mark. ARGV: mark of the reader, lease in ms, 'hash' or 'set', what it needs: 'whole',
-- 'each' (as 'whole', unless there are more elements than ARGV[5]), 'count', 'existence', or 'fields' and
-- their names, no more than `unpack` takes. FILL comes with the time in ms. AHEAD is a HIT, or what comes
-- with ABSENT, where Postgres does not know it yet.
if redis.call('EXISTS', KEYS[1]) == 1 then
  local mark = redis.call('GET', KEYS[2])
  local hit = mark and string.sub(mark, 1, 2) == 'd:' and 'AHEAD' or 'HIT'
  local is_set = ARGV[3] == 'set'
  if ARGV[4] == 'each' then
    local count = redis.pcall(is_set and 'SCARD' or 'HLEN', KEYS[1])
    if type(count) == 'number' and count > tonumber(ARGV[5]) then
      return {hit}
    end
  end
  if ARGV[4] == 'whole' or ARGV[4] == 'each' then
    return {hit, redis.pcall(is_set and 'SMEMBERS' or 'HGETALL', KEYS[1])}
  elseif ARGV[4] == 'count' then
    return {hit, redis.pcall(is_set and 'SCARD' or 'HLEN', KEYS[1])}
  elseif ARGV[4] == 'fields' then
    return {hit, redis.pcall(is_set and 'SMISMEMBER' or 'HMGET', KEYS[1], unpack(ARGV, 5))}
  end
  return {hit}
end
local mark = redis.call('GET', KEYS[2])
if not mark then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
  local time = redis.call('TIME')
  return {'FILL', time[1] * 1000 + math.floor(time[2] / 1000)}
end
if mark == 'gone' then
  return {'ABSENT'}
elseif string.sub(mark, 1, 5) == 'gone:' then
  return {'ABSENT', 'AHEAD'}
end
return {'THROUGH'}
