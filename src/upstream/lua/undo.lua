#!lua flags=allow-oom
-- Keys that an atomic step has changed get back what they held before it, where they still hold what
-- it left.
-- KEYS: keys. ARGV: for each key what the step left (as DUMP gives it; empty: nothing) and its expiry
-- (as PEXPIRETIME gives it), then the same for what was there before.
-- Answers how many keys somebody has changed since.
local changed = 0
for i = 1, #KEYS do
  local left, left_until = ARGV[4 * i - 3], ARGV[4 * i - 2]
  local before, before_until = ARGV[4 * i - 1], ARGV[4 * i]
  local present = redis.call('DUMP', KEYS[i]) or ''
  if present ~= left or redis.call('PEXPIRETIME', KEYS[i]) ~= tonumber(left_until) then
    changed = changed + 1
  elseif before == '' then
    redis.call('DEL', KEYS[i])
  elseif tonumber(before_until) > 0 then
    redis.call('RESTORE', KEYS[i], before_until, before, 'REPLACE', 'ABSTTL')
  else
    redis.call('RESTORE', KEYS[i], 0, before, 'REPLACE')
  end
end
return changed
