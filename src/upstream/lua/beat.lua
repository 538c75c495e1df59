#!lua flags=allow-oom
-- A proxy is alive. An older renewal that comes late changes nothing, as the end of the lease is told by
-- Redis' own clock.
-- KEYS: the proxies, the entries of mappings. ARGV: its id, the end of its lease (ms), what it says of itself; then ids of others
-- that are to be taken out where their lease has ended.
-- Answers the time (ms); all proxies: id, end of the lease and standing, …; and the entries: mapping,
-- version and entry, …
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends_at = function(id)
  local entry = redis.call('HGET', KEYS[1], id)
  return entry and tonumber(string.match(entry, '^%d+')) or 0
end
for i = 4, #ARGV do
  if ends_at(ARGV[i]) < now then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
if ends_at(ARGV[1]) < tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
end
return {now, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
