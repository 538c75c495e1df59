#!lua flags=allow-oom
-- The place that a SCAN has come to is kept for ten minutes at least, so that any proxy can go on
-- from there. Places lie in drawers by the time at which they were put there; a drawer is emptied
-- when its youngest place is ten minutes old.
-- KEYS: the drawers. ARGV: the place's number and text; then the drawer (from 0) and the number of a
-- place that nobody asks for any more, if there is one. Answers the drawer.
local window = math.floor(redis.call('TIME')[1] / 600)
local drawer = window % #KEYS
redis.call('HSET', KEYS[drawer + 1], ARGV[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[drawer + 1], (window + 2) * 600000)
if ARGV[3] then
  redis.call('HDEL', KEYS[ARGV[3] + 1], ARGV[4])
end
return drawer
