#!lua flags=allow-oom
-- The writer is done: the values set aside come back with its changes, where its mark still stands.
-- KEYS: value, mark, aside; and so on. ARGV: mark of the writer; then for each key 'drop', 'hash' or
-- 'set', when the copy ends (ms, on this clock), count of fields or members to set, field, value …
-- or member …, count of those to remove, field or member …
touch(1, 3)
local at = 2
for i = 1, #KEYS, 3 do
  local value, mark, aside = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local mode, ends_at, set = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local is_set = mode == 'set'
  local width = is_set and 1 or 2
  local first_set = at + 3
  local removed = tonumber(ARGV[first_set + width * set])
  local first_removed = first_set + width * set + 1
  at = first_removed + removed
  if redis.call('GET', mark) == ARGV[1] then
    redis.call('DEL', mark)
    if redis.call('EXISTS', aside) == 1 then
      local applied = mode ~= 'drop'
      for j = first_set, first_set + width * set - 1, width do
        if applied then
          local reply
          if is_set then
            reply = redis.pcall('SADD', aside, ARGV[j])
          else
            reply = redis.pcall('HSET', aside, ARGV[j], ARGV[j + 1])
          end
          applied = not (type(reply) == 'table' and reply['err'])
        end
      end
      for j = first_removed, first_removed + removed - 1 do
        if applied then
          local reply = redis.pcall(is_set and 'SREM' or 'HDEL', aside, ARGV[j])
          applied = not (type(reply) == 'table' and reply['err'])
        end
      end
      if not applied then
        redis.call('DEL', aside)
      elseif redis.call('EXISTS', aside) == 1 then
        redis.call('RENAME', aside, value)
        redis.call('PEXPIREAT', value, ends_at)
      end
    end
  end
end
return 0
