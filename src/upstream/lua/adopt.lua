#!lua flags=allow-oom
-- Postgres has these values now: what Redis has are copies, and get an end as others have. One with an end of
-- its own keeps it.
-- KEYS: value, mark; and so on for each key. ARGV: how long the copies live (ms).
touch(1, 2)
local time = redis.call('TIME')
local ends_at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
ends_at = string.format('%.0f', ends_at - ends_at % 2)
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i + 1]) == 0 then
    redis.call('PEXPIREAT', KEYS[i], ends_at, 'NX')
  end
end
return 0
