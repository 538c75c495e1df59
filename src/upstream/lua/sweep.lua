#!lua flags=allow-oom
-- Redis may have come back with old data: what are or may be copies of ours goes. All of ours have an
-- end, and values with changes that Postgres does not have yet have a mark that says so.
-- KEYS: value, mark, aside; and so on for each key. ARGV: 'spare' where no value may go yet.
-- Answers the numbers (from 0) of the keys that stay: that are there without an end, or were spared.
local stay = {}
for i = 1, #KEYS, 3 do
  local mark = redis.call('GET', KEYS[i + 1])
  if not (mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:')) then
    redis.call('UNLINK', KEYS[i + 1], KEYS[i + 2])
    local left = redis.call('PTTL', KEYS[i])
    if left == -1 or (left >= 0 and ARGV[1] == 'spare') then
      stay[#stay + 1] = (i - 1) / 3
    else
      redis.call('UNLINK', KEYS[i])
    end
  end
end
return stay
