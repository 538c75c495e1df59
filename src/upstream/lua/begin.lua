#!lua flags=allow-oom
-- A through-writer is about to commit: nobody may read or fill these keys from now on.
-- KEYS: value, mark, aside; and so on for each key. ARGV: mark of the writer, lease in ms, and 'drop'
-- where the values are not to be believed: they are not kept aside then.
-- Answers the time in ms, then the numbers (from 0) of the keys that are dirty; if there is one,
-- nothing was begun. Else an array comes in their place: when each copy would have ended (as PEXPIRETIME).
touch(1, 3)
local time = redis.call('TIME')
local answer = {time[1] * 1000 + math.floor(time[2] / 1000)}
for i = 1, #KEYS, 3 do
  local mark = redis.call('GET', KEYS[i + 1])
  if mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:') then
    answer[#answer + 1] = (i - 1) / 3
  end
end
if #answer > 1 then
  return answer
end
local ends = {}
for i = 1, #KEYS, 3 do
  ends[#ends + 1] = redis.call('PEXPIRETIME', KEYS[i])
  redis.call('DEL', KEYS[i + 2])
  if ARGV[3] == 'drop' then
    redis.call('UNLINK', KEYS[i])
  elseif redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 2])
    redis.call('PEXPIRE', KEYS[i + 2], ARGV[2])
  end
  redis.call('SET', KEYS[i + 1], ARGV[1], 'PX', ARGV[2])
end
answer[2] = ends
return answer
