#!lua
-- A reader stores what it found in Postgres, if its mark still stands.
-- KEYS: value, mark. ARGV: mark of the reader, then 'hash', when the copy ends (ms, on this clock),
-- field, value …; or 'set', when it ends, member …; or 'gone': the key is known to be absent for so
-- many ms.
touch(1, 2)
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'gone' then
  redis.call('SET', KEYS[2], 'gone', 'PX', ARGV[3])
  return 1
end
redis.call('DEL', KEYS[2], KEYS[1])
if ARGV[2] == 'set' then
  for i = 4, #ARGV do
    redis.call('SADD', KEYS[1], ARGV[i])
  end
else
  for i = 4, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return 1
