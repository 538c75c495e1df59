#!lua flags=allow-oom
-- What Redis has of a key that Postgres has never had. Whoever asks holds the key's lock.
-- KEYS: value, mark, aside. ARGV: 'hash' or 'set', the most elements to tell, the most bytes to take.
-- Answers NONE; DIRTY (Postgres is going to have it); HELD (somebody was at it); TYPE and what it is; LARGE;
-- MANY, how long the key has left in ms, count of elements; or VALUE, the same, and the elements.
-- 'gone' hides nothing: every step of ours that puts a value there takes it away.
-- Whoever completes values has to know (see complete.lua).
if redis.call('EXISTS', 'respgres:completing') == 1 then
  redis.call('SADD', 'respgres:touched', KEYS[1])
  redis.call('PEXPIRE', 'respgres:touched', 3600000)
end
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind == 'none' then
  return {'NONE'}
end
local mark = redis.call('GET', KEYS[2])
if mark and (string.sub(mark, 1, 2) == 'd:' or string.sub(mark, 1, 5) == 'gone:') then
  return {'DIRTY'}
elseif (mark and mark ~= 'gone') or redis.call('EXISTS', KEYS[3]) == 1 then
  return {'HELD'}
elseif kind ~= ARGV[1] then
  return {'TYPE', kind}
elseif redis.call('MEMORY', 'USAGE', KEYS[1]) > tonumber(ARGV[3]) then
  return {'LARGE'}
end
local count = redis.call(kind == 'set' and 'SCARD' or 'HLEN', KEYS[1])
local answer = {'MANY', redis.call('PTTL', KEYS[1]), count}
if count <= tonumber(ARGV[2]) then
  answer[1] = 'VALUE'
  answer[4] = redis.call(kind == 'set' and 'SMEMBERS' or 'HGETALL', KEYS[1])
end
-- An odd end is the key's own (see engine::copy).
local ends_at = redis.call('PEXPIRETIME', KEYS[1])
if ends_at > 0 and ends_at % 2 == 0 then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', ends_at - 1))
end
return answer
