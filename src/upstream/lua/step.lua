#!lua
-- Operations of many clients that Redis is first to know, each by itself, and what has become of their keys as
-- one entry of the journal. One whose key cannot be worked on here is left to a worker (see behind.lua), and so
-- is what its client has sent after it.
-- KEYS: the journal's state, the journal; then value, mark of each operation's key; a key may stand there often.
-- ARGV: most changes that the journal may hold; then for each operation: three bytes, which are how (a letter, see
-- below), a digit (1 if it comes after the one before it, as both are of one client, and 2 more if its hash cannot be
-- made anew from some of its fields), and the count of its words; what the journal says of it when it changes something
-- (of a sum all but the sum); and the words, which are the request without its key.
-- Answers EPOCH (the journal is not open), FULL, or the replies, in which LEFT stands for what is left.
touch(3, 2)
local call, pcall = redis.call, redis.pcall
local epoch, held = unpack(call('HMGET', KEYS[1], 'epoch', 'changes'))
if not epoch then
  return redis.status_reply('EPOCH')
end
if tonumber(held or '0') >= tonumber(ARGV[1]) then
  return redis.status_reply('FULL')
end
local LEFT = redis.status_reply('LEFT')
local replies, texts, changes = {}, {}, 0
-- Where they end, of keys that are worked on: -1 for nowhere, -2 for absent.
local ends = {}
local changed, shrunk, marks = {}, {}, {}
local at, left = 2, false
local byte, sub = string.byte, string.sub
-- A call costs more than what it does: the marks are read at once, and written at once.
local mark_keys = {}
for number = 1, #KEYS / 2 - 1 do
  mark_keys[number] = KEYS[2 * number + 2]
end
local said = call('MGET', unpack(mark_keys))
for number, mark in ipairs(mark_keys) do
  local value = KEYS[2 * number + 1]
  -- How: p(airs), u(nique), s(um), f(loat), a(dds), r(emoves).
  local how, follows, words = byte(ARGV[at], 1, 3)
  local first, last = at + 2, at + 1 + words
  local reply = LEFT
  left = left and follows % 2 == 1
  if not left and not ends[value] then
    local ends_at = call('PEXPIRETIME', value)
    if ends_at >= 0 then
      -- An odd end is the key's own (see engine::copy).
      left = ends_at % 2 == 1
    else
      -- Absent, or without an end: the mark knows why. Of a part (':p') workers know what to say.
      local marked = said[number] or ''
      local is_known
      if ends_at == -1 then
        is_known = sub(marked, 1, 2) == 'd:'
      else
        -- 48 and 49 are the digits of hashes that can be made anew.
        is_known = follows < 50 and (marked == 'gone' or sub(marked, 1, 5) == 'gone:')
      end
      left = not is_known or sub(marked, -2) == ':p'
    end
    if not left then
      ends[value] = ends_at
    end
  end
  if not left then
    reply = pcall(ARGV[first], value, unpack(ARGV, first + 1, last))
    local text
    if type(reply) == 'table' and reply['err'] then
      reply = {err = reply['err']}
    elseif how == 115 then
      if reply > 9007199254740991 or reply < -9007199254740991 then
        -- A number of Lua's has 53 bits.
        reply = call('HGET', value, ARGV[first + 1])
      else
        reply = string.format('%.0f', reply)
      end
      text = ARGV[at + 1] .. (#reply + 1) .. ':+' .. reply
    elseif how == 102 then
      text = ARGV[at + 1] .. (#reply + 1) .. ':+' .. reply
    elseif how == 112 or reply ~= 0 then
      text = ARGV[at + 1]
    end
    if text then
      texts[#texts + 1] = text
      if how == 97 or how == 114 then
        changes = changes + words - 1
      else
        -- Of a sum there are a name and what is added.
        changes = changes + (words - 1) / 2
      end
      if not marks[value] then
        marks[value] = mark
        changed[#changed + 1] = value
      end
      shrunk[value] = how == 114
    end
  end
  replies[number] = reply
  at = last + 1
end
if #changed == 0 then
  return replies
end
local time = call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local id = call('XADD', KEYS[2], epoch .. '-*', 'at', now_ms, 'changes', changes, 'keys', table.concat(texts))
call('HINCRBY', KEYS[1], 'changes', changes)
local is_dirty, is_gone = 'd:' .. id, 'gone:' .. id
local now_said = {}
for number, value in ipairs(changed) do
  local says = is_dirty
  if shrunk[value] and call('EXISTS', value) == 0 then
    says = is_gone
  elseif ends[value] >= 0 then
    call('PERSIST', value)
  end
  now_said[2 * number - 1], now_said[2 * number] = marks[value], says
end
call('MSET', unpack(now_said))
return replies
