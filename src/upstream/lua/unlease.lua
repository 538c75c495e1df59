#!lua flags=allow-oom
-- A reader that may not fill takes its mark away.
-- KEYS: mark. ARGV: mark of the reader.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 0
