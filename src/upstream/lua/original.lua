#!lua flags=allow-oom
-- What Redis has of keys that Postgres has never had. Whoever asks holds the keys' locks.
-- KEYS: value, mark, aside; and so on for each key. ARGV: 'hash' or 'set', the most elements to tell, the most
-- bytes to take.
-- Answers for each key an array: NONE; DIRTY (Postgres is going to have it); HELD (somebody was at it); TYPE and
-- what it is; LARGE; MANY, how long the key has left in ms, count of elements; or VALUE, the same, and the elements.
-- 'gone' hides nothing: every step of ours that puts a value there takes it away.
touch(1, 3)
local call = redis.call
local is_set = ARGV[1] == 'set'
local most_elements, most_bytes = tonumber(ARGV[2]), tonumber(ARGV[3])
local function tell(key, mark_key, aside)
  local kind = call('TYPE', key)['ok']
  if kind == 'none' then
    return {'NONE'}
  end
  local mark = call('GET', mark_key)
  if mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:') then
    return {'DIRTY'}
  elseif (mark and mark ~= 'gone') or call('EXISTS', aside) == 1 then
    return {'HELD'}
  elseif kind ~= ARGV[1] then
    return {'TYPE', kind}
  elseif call('MEMORY', 'USAGE', key) > most_bytes then
    return {'LARGE'}
  end
  local count = call(is_set and 'SCARD' or 'HLEN', key)
  local ends_at = call('PEXPIRETIME', key)
  local answer = {'MANY', ends_at < 0 and -1 or call('PTTL', key), count}
  if count <= most_elements then
    answer[1] = 'VALUE'
    answer[4] = call(is_set and 'SMEMBERS' or 'HGETALL', key)
  end
  -- An odd end is the key's own (see engine::copy).
  if ends_at > 0 and ends_at % 2 == 0 then
    call('PEXPIREAT', key, string.format('%.0f', ends_at - 1))
  end
  return answer
end
local answers = {}
for i = 1, #KEYS, 3 do
  answers[#answers + 1] = tell(KEYS[i], KEYS[i + 1], KEYS[i + 2])
end
return answers
