#!lua flags=allow-oom
-- Somebody has changed rows past Redis: what it has of these keys goes.
-- KEYS: value, mark, aside; and so on for each key.
-- Answers the numbers (from 0) of the keys that are dirty, which stay as they are.
touch(1, 3)
local dirty = {}
for i = 1, #KEYS, 3 do
  local mark = redis.call('GET', KEYS[i + 1])
  if mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:') then
    dirty[#dirty + 1] = (i - 1) / 3
  else
    redis.call('UNLINK', KEYS[i], KEYS[i + 1], KEYS[i + 2])
  end
end
return dirty
