#!lua flags=allow-oom
-- Redis is emptied, unless it has what Postgres does not have yet.
-- KEYS: the journal. ARGV: the request's words. Answers DIRTY, or the reply to the request.
if redis.call('XLEN', KEYS[1]) > 0 then
  return 'DIRTY'
end
return redis.call(unpack(ARGV))
