#!lua flags=allow-oom
-- Postgres has this value now: what Redis has is a copy, and gets an end as others have. One with an end of
-- its own keeps it.
-- KEYS: value, mark. ARGV: how long the copy lives (ms).
-- Whoever completes values has to know (see complete.lua).
if redis.call('EXISTS', 'respgres:completing') == 1 then
  redis.call('SADD', 'respgres:touched', KEYS[1])
  redis.call('PEXPIRE', 'respgres:touched', 3600000)
end
if redis.call('EXISTS', KEYS[2]) == 0 and redis.call('PTTL', KEYS[1]) == -1 then
  local time = redis.call('TIME')
  local ends_at = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', ends_at - ends_at % 2))
end
return 0
