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
touch(3, 2)
local epoch, held = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'changes'))
if not epoch then
  return {'EPOCH'}
end
if tonumber(held or '0') >= tonumber(ARGV[1]) then
  return {'FULL'}
end
local count = (#KEYS - 2) / 2
local states, ends, partial, kinds = {}, {}, {}, {}
for key = 1, count do
  local ends_at = redis.call('PEXPIRETIME', KEYS[2 * key + 1])
  ends[key] = ends_at
  local may_be_part
  kinds[key], may_be_part = string.match(ARGV[key + 2], '^(%a+)(%+?)$')
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

-- What has become of each key that has changed: '+' and value or '-' for each name; and what was added to
-- names of which nothing is known.
local changed, changes_of = {}, {}
local function change(key)
  local made = changes_of[key]
  if not made then
    made = {names = {}, now = {}, steps = {}, cleared = false, exists = nil}
    changes_of[key] = made
    changed[#changed + 1] = key
  end
  return made
end
local function became(made, name, now)
  if not made.now[name] then
    made.names[#made.names + 1] = name
  end
  made.now[name] = now
end
local function increased(key, name, now, step)
  local made = change(key)
  made.exists = true
  if partial[key] and not made.now[name] then
    made.steps[#made.steps + 1] = {name, step}
  else
    became(made, name, '+' .. now)
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
        local made = change(key)
        made.names, made.now, made.steps, made.cleared, made.exists = {}, {}, {}, true, false
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
      local made = change(key)
      made.exists = true
      for i = first + 2, last, 2 do
        became(made, ARGV[i], '+' .. ARGV[i + 1])
      end
    elseif how == 'sum' then
      -- A number of Lua's has 53 bits.
      reply = redis.call('HGET', KEYS[2 * key + 1], ARGV[first + 2])
      increased(key, ARGV[first + 2], reply, 'i' .. ARGV[first + 3])
    elseif how == 'float' then
      increased(key, ARGV[first + 2], reply, 'f' .. ARGV[first + 3])
    elseif how == 'drawn' then
      local drawn = reply
      if type(drawn) ~= 'table' then
        drawn = {drawn or nil}
      end
      for i = 1, #drawn do
        local made = change(key)
        made.exists = nil
        became(made, drawn[i], '-')
      end
    elseif reply ~= 0 or (how == 'removes' and partial[key]) then
      local made = change(key)
      if how == 'unique' then
        made.exists = true
        became(made, ARGV[first + 2], '+' .. ARGV[first + 3])
      elseif how == 'adds' then
        made.exists = true
        for i = first + 2, last do
          became(made, ARGV[i], '+')
        end
      else
        made.exists = nil
        for i = first + 2, last do
          became(made, ARGV[i], '-')
        end
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
-- '-', or 'i' or 'f' and what was added …; each text as its length, a colon, and itself.
local texts, changes = {}, 0
local function tell(text)
  texts[#texts + 1] = #text .. ':' .. text
end
for _, key in ipairs(changed) do
  local made = changes_of[key]
  tell(KEYS[2 * key + 1])
  tell(made.cleared and 'cleared' or 'kept')
  local steps = {}
  for _, step in ipairs(made.steps) do
    if not made.now[step[1]] then
      steps[#steps + 1] = step
    end
  end
  tell(tostring(#made.names + #steps))
  changes = changes + math.max(#made.names + #steps, 1)
  for _, name in ipairs(made.names) do
    tell(name)
    tell(made.now[name])
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
  local value, mark, exists = KEYS[2 * key + 1], KEYS[2 * key + 2], changes_of[key].exists
  local which = partial[key] and id .. ':p' or id
  if exists == nil then
    exists = redis.call('EXISTS', value) == 1
  end
  if exists then
    if ends[key] >= 0 then
      redis.call('PERSIST', value)
    end
    redis.call('SET', mark, 'd:' .. which)
  else
    redis.call('SET', mark, 'gone:' .. which)
  end
end
return answer
