#!lua flags=allow-oom
-- Takes a shard that nobody works for, or keeps it. What the courier before had in flight is due again.
-- ARGV: name, ms to hold it, now. Answer: nothing when another has it, else when something is due ('' nothing), rows
local name, ttl, now = ARGV[1], ARGV[2], ARGV[3]
local holder = redis.call('GET', K.courier())
if holder and holder ~= name then return false end
redis.call('SET', K.courier(), name, 'PX', ttl)
if not holder then ground(now) end
local first = redis.call('ZRANGE', K.due(), 0, 0, 'WITHSCORES')
return {first[2] and string.format('%.0f', first[2]) or '', redis.call('XLEN', K.outbox())}
