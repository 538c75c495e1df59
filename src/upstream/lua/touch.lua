-- In front of each script that may change values, or their ends: whoever completes values has to know which were
-- touched (see complete.lua). The first of them is KEYS[first], and after that every `width`-th key is one.
local function touch(first, width)
  if redis.call('EXISTS', 'respgres:completing') == 1 then
    for i = first, #KEYS, width do
      redis.call('SADD', 'respgres:touched', KEYS[i])
    end
    redis.call('PEXPIRE', 'respgres:touched', 3600000)
  end
end
