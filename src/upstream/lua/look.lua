#!lua
-- What Redis has of keys, as of one moment; nothing is changed.
-- KEYS: value, mark; and so on for each key. ARGV: 'hash' or 'set', the most elements to tell.
-- Answers for each key an array: NONE; DIRTY (Postgres is going to have it); TYPE and what it is; LARGE; or
-- VALUE, its end (as PEXPIRETIME), how long it has left (as PTTL), and the elements.
local answers = {}
for i = 1, #KEYS, 2 do
  local answer
  local kind = redis.call('TYPE', KEYS[i])['ok']
  local mark = redis.call('GET', KEYS[i + 1])
  if mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:') then
    answer = {'DIRTY'}
  elseif kind == 'none' then
    answer = {'NONE'}
  elseif kind ~= ARGV[1] then
    answer = {'TYPE', kind}
  elseif redis.call(kind == 'set' and 'SCARD' or 'HLEN', KEYS[i]) > tonumber(ARGV[2]) then
    answer = {'LARGE'}
  else
    answer = {
      'VALUE', redis.call('PEXPIRETIME', KEYS[i]), redis.call('PTTL', KEYS[i]),
      redis.call(kind == 'set' and 'SMEMBERS' or 'HGETALL', KEYS[i])
    }
  end
  answers[#answers + 1] = answer
end
return answers
