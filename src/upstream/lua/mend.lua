#!lua flags=allow-oom
-- Nobody is at the keys any more: those whose own end is even, and that got an odd one for as long as others went by that,
-- get their own.
-- KEYS: where ends are to be mended. ARGV: how many keys at most.
-- Answers how many there were.
local keys = redis.call('SPOP', KEYS[1], ARGV[1])
for _, key in ipairs(keys) do
  local ends_at = redis.call('PEXPIRETIME', key)
  if ends_at > 0 and ends_at % 2 == 1 then
    redis.call('PEXPIREAT', key, string.format('%.0f', ends_at + 1))
  end
end
return #keys
