#!lua
-- Operations that Redis is first to know: they are run on the values, and what has become of these goes
-- into the journal for Postgres, as one entry for all of them. All of it or, from the first operation on
-- whose keys cannot be worked on here, nothing.
-- KEYS: the journal's state, the journal; then value, mark of each key.
-- ARGV: most changes that the journal may hold; 'loose' where keys are among these that others write
-- through; for each key 'hash' or 'set', or 'needy' for a hash that cannot be made anew from some of its
-- fields, with a '+' behind it where a key that Redis does not know may be begun as a part of its value;
-- then the operations: how (see below), the number of the key (from 1), count of words, the request's
-- words. With 'keys' (DEL) words are numbers of keys.
-- Of a value that is known in part (its mark ends in ':p') increments are journaled as such, and what is
-- removed though Redis did not have it.
-- Answers EPOCH (the journal is not open), FULL, or DONE, the states of the keys (a character each: 'y',
-- 'l': to be loaded, 't': to be written through), and the replies of the operations that were run.
local epoch, held = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'changes'))
if not epoch then
  return {'EPOCH'}
end
if tonumber(held or '0') >= tonumber(ARGV[1]) then
  return {'FULL'}
end
local count = (#KEYS - 2) / 2
local states, partial, kinds = {}, {}, {}
for key = 1, count do
  local may_be_part
  kinds[key], may_be_part = string.match(ARGV[key + 2], '^(%a+)(%+?)$')
  local ends_at = redis.call('PEXPIRETIME', KEYS[2 * key + 1])
  if ends_at < 0 then
    -- Absent, or without an end: the mark knows why.
    local mark = redis.call('GET', KEYS[2 * key + 2]) or ''
    partial[key] = string.sub(mark, -2) == ':p'
    if ends_at == -1 then
      states[key] = string.sub(mark, 1, 2) == 'd:' and 'y' or 't'
    elseif mark == 'gone' or string.sub(mark, 1, 5) == 'gone:' then
      states[key] = kinds[key] == 'needy' and 't' or 'y'
    elseif may_be_part == '+' then
      states[key] = 'y'
      partial[key] = true
    else
      states[key] = 'l'
    end
  else
    -- An odd end is the key's own (see engine::copy).
    states[key] = ends_at % 2 == 0 and 'y' or 't'
  end
end

-- What was touched of each key that has changed, each name once; and increments of what is not known.
local changed, cleared, touched = {}, {}, {}
local function touch(key, name)
  local names = touched[key]
  if not names then
    names = {list = {}, known = {}, steps = {}}
    touched[key] = names
    changed[#changed + 1] = key
  end
  if name and not names.known[name] then
    names.known[name] = true
    names.list[#names.list + 1] = name
  end
  return names
end
local function increment(key, name, step)
  local names = touch(key)
  if partial[key] and not names.known[name] then
    names.steps[#names.steps + 1] = {name, step}
  else
    touch(key, name)
  end
end

local replies = {}
local at = count + 3
while at <= #ARGV do
  local how, key, words = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local first, last = at + 3, at + 2 + words
  at = last + 1
  local reply
  if how == 'keys' then
    local ready = true
    for i = first, last do
      ready = ready and states[tonumber(ARGV[i])] == 'y'
    end
    if not ready then
      break
    end
    reply = 0
    for i = first, last do
      key = tonumber(ARGV[i])
      local was_there = redis.call('UNLINK', KEYS[2 * key + 1])
      reply = reply + was_there
      if was_there == 1 or partial[key] then
        touch(key).steps = {}
        cleared[key] = true
        -- Now all of it is known.
        partial[key] = false
        if kinds[key] == 'needy' then
          states[key] = 't'
        end
      end
    end
  else
    if states[key] ~= 'y' then
      break
    end
    reply = redis.pcall(unpack(ARGV, first, last))
    if type(reply) == 'table' and reply['err'] then
      reply = {err = reply['err']}
    elseif how == 'pairs' then
      for i = first + 2, last, 2 do
        touch(key, ARGV[i])
      end
    elseif how == 'one' then
      increment(key, ARGV[first + 2], 'f' .. ARGV[first + 3])
    elseif how == 'sum' then
      increment(key, ARGV[first + 2], 'i' .. ARGV[first + 3])
      -- A number of Lua's has 53 bits.
      reply = redis.call('HGET', KEYS[2 * key + 1], ARGV[first + 2])
    elseif how == 'drawn' then
      local drawn = reply
      if type(drawn) ~= 'table' then
        drawn = {drawn or nil}
      end
      for i = 1, #drawn do
        touch(key, drawn[i])
      end
    elseif reply ~= 0 or (how == 'names' and partial[key]) then
      -- 'unique': the first one alone; 'names': all of them.
      for i = first + 2, how == 'unique' and first + 2 or last do
        touch(key, ARGV[i])
      end
    end
  end
  replies[#replies + 1] = reply
end

local answer = {'DONE', table.concat(states)}
for i = 1, #replies do
  answer[i + 2] = replies[i]
end
if #changed == 0 then
  return answer
end

-- What has become of them: for each its name, 'cleared' or 'kept', count of names, name, '+' and value, or
-- '-', or 'i' or 'f' and what was added to it …; each text as its length, a colon, and itself.
local texts, changes = {}, 0
local function tell(text)
  texts[#texts + 1] = #text .. ':' .. text
end
for _, key in ipairs(changed) do
  local value, names = KEYS[2 * key + 1], touched[key].list
  tell(value)
  tell(cleared[key] and 'cleared' or 'kept')
  local steps = {}
  for _, step in ipairs(touched[key].steps) do
    if not touched[key].known[step[1]] then
      steps[#steps + 1] = step
    end
  end
  tell(tostring(#names + #steps))
  changes = changes + math.max(#names + #steps, 1)
  for from = 1, #names, 1000 do
    local to = math.min(from + 999, #names)
    local is_set = kinds[key] == 'set'
    local now = redis.call(is_set and 'SMISMEMBER' or 'HMGET', value, unpack(names, from, to))
    for i = from, to do
      tell(names[i])
      local found = now[i - from + 1]
      if is_set then
        found = found == 1 and ''
      end
      tell(found and '+' .. found or '-')
    end
  end
  for _, step in ipairs(steps) do
    tell(step[1])
    tell(step[2])
  end
end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local id = redis.call('XADD', KEYS[2], epoch .. '-*', 'at', now_ms, 'changes', changes, 'keys', table.concat(texts))
redis.call('HINCRBY', KEYS[1], 'changes', changes)
if ARGV[2] == 'loose' then
  redis.call('HSET', KEYS[1], 'loose', id)
end
for _, key in ipairs(changed) do
  local value, mark = KEYS[2 * key + 1], KEYS[2 * key + 2]
  local which = partial[key] and id .. ':p' or id
  if redis.call('EXISTS', value) == 1 then
    redis.call('PERSIST', value)
    redis.call('SET', mark, 'd:' .. which)
  else
    redis.call('SET', mark, 'gone:' .. which)
  end
end
return answer
