#!lua flags=allow-oom
-- What holds for a mapping is told to the proxies that have lost Postgres. Something older that comes late
-- changes nothing.
-- KEYS: the entries. ARGV: mapping, version, entry; and so on.
for i = 1, #ARGV, 3 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local version = known and tonumber(string.match(known, '^%d+')) or 0
  if version < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ' ' .. ARGV[i + 2])
  end
end
return 0
