#!lua
-- A reader stores what it found in Postgres, if its mark still stands.
-- KEYS: value, mark. ARGV: mark of the reader, when the copy ends (ms, on this clock), field,
-- value …; without fields: the key is known to be absent for so many ms.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if #ARGV == 2 then
  redis.call('SET', KEYS[2], 'gone', 'PX', ARGV[2])
  return 1
end
redis.call('DEL', KEYS[2], KEYS[1])
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return 1
