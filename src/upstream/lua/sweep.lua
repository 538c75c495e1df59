#!lua flags=allow-oom
-- Redis may have come back with old data: what are or may be copies of ours goes. All of ours have an
-- end, and values with changes that Postgres does not have yet have a mark that says so.
-- KEYS: the journal; then value, mark, aside of each key. ARGV: epoch and number of the last entry that
-- Postgres has, empty where nothing in the journal is to be believed; 'spare' where no value may go yet, 'own'
-- where values with an end of their own may be in Redis alone.
-- Answers the numbers (from 0) of the keys that stay though they have no end, or were spared.
touch(2, 3)
local function is_owed(id)
  if ARGV[1] == '' then
    return false
  end
  local epoch, number = string.match(id, '^(%d+)-(%d+)$')
  epoch, number = tonumber(epoch), tonumber(number)
  local applied = tonumber(ARGV[1])
  if not epoch or epoch < applied or (epoch == applied and number <= tonumber(ARGV[2])) then
    return false
  end
  return #redis.call('XRANGE', KEYS[1], id, id) == 1
end
local stay = {}
for i = 2, #KEYS, 3 do
  local mark = redis.call('GET', KEYS[i + 1]) or ''
  local id = string.match(mark, '^d:([^:]*)') or string.match(mark, '^gone:([^:]*)')
  if not (id and is_owed(id)) then
    redis.call('UNLINK', KEYS[i + 1], KEYS[i + 2])
    local left = redis.call('PTTL', KEYS[i])
    local stays = not id and (left == -1 or (left ~= -2 and ARGV[3] == 'own'))
    if stays or (left ~= -2 and ARGV[3] == 'spare') then
      stay[#stay + 1] = (i - 2) / 3
    else
      redis.call('UNLINK', KEYS[i])
    end
  end
end
return stay
