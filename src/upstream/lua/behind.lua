#!lua
-- Operations that Redis is first to know: they are run on the values, and what has become of these goes
-- into the journal for Postgres, as one entry for all of them. All of it or, from the first operation on
-- whose keys cannot be worked on here, nothing.
-- KEYS: the journal's state, the journal; then value, mark of each key.
-- ARGV: most changes that the journal may hold; for each key 'hash' or 'set', or 'part' for a hash that
-- cannot be made anew from some of its fields; then the operations: how (see below), the number of the
-- key (from 1), count of words, the request's words. With 'keys' (DEL) words are numbers of keys.
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
local states, ends = {}, {}
for key = 1, count do
  local ends_at = redis.call('PEXPIRETIME', KEYS[2 * key + 1])
  ends[key] = ends_at
  if ends_at < 0 then
    -- Absent, or without an end: the mark knows why.
    local mark = redis.call('GET', KEYS[2 * key + 2]) or ''
    if ends_at == -1 then
      states[key] = string.sub(mark, 1, 2) == 'd:' and 'y' or 't'
    elseif mark == 'gone' or string.sub(mark, 1, 5) == 'gone:' then
      states[key] = ARGV[key + 1] == 'part' and 't' or 'y'
    else
      states[key] = 'l'
    end
  else
    -- An odd end is the key's own (see engine::copy).
    states[key] = ends_at % 2 == 0 and 'y' or 't'
  end
end

-- What has become of each key that has changed: '+' and value or '-' for each name.
local changed, changes_of = {}, {}
local function change(key)
  local made = changes_of[key]
  if not made then
    made = {names = {}, now = {}, cleared = false, exists = nil}
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

local replies = {}
local at = count + 2
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
      if redis.call('UNLINK', KEYS[2 * key + 1]) == 1 then
        reply = reply + 1
        local made = change(key)
        made.names, made.now, made.cleared, made.exists = {}, {}, true, false
        if ARGV[key + 1] == 'part' then
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
      local made = change(key)
      made.exists = true
      became(made, ARGV[first + 2], '+' .. reply)
    elseif how == 'float' then
      local made = change(key)
      made.exists = true
      became(made, ARGV[first + 2], '+' .. reply)
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
    elseif reply ~= 0 then
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

-- What has become of them: for each its name, 'cleared' or 'kept', count of names, name, '+' and value or
-- '-' …; each text as its length, a colon, and itself.
local texts, changes = {}, 0
local function tell(text)
  texts[#texts + 1] = #text .. ':' .. text
end
for _, key in ipairs(changed) do
  local made = changes_of[key]
  tell(KEYS[2 * key + 1])
  tell(made.cleared and 'cleared' or 'kept')
  tell(tostring(#made.names))
  changes = changes + math.max(#made.names, 1)
  for _, name in ipairs(made.names) do
    tell(name)
    tell(made.now[name])
  end
end
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local id = redis.call('XADD', KEYS[2], epoch .. '-*', 'at', now_ms, 'changes', changes, 'keys', table.concat(texts))
redis.call('HINCRBY', KEYS[1], 'changes', changes)
for _, key in ipairs(changed) do
  local value, mark, exists = KEYS[2 * key + 1], KEYS[2 * key + 2], changes_of[key].exists
  if exists == nil then
    exists = redis.call('EXISTS', value) == 1
  end
  if exists then
    if ends[key] >= 0 then
      redis.call('PERSIST', value)
    end
    redis.call('SET', mark, 'd:' .. id)
  else
    redis.call('SET', mark, 'gone:' .. id)
  end
end
return answer
