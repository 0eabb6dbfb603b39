-- Puts MACs into the chain of a workspace's audit log, or answers 0 when it is not as long as it was read.
-- ARGV: ws, length, MACs…
local ws, chain = ARGV[1], K.audit_chain(ARGV[1])
if redis.call('LLEN', chain) ~= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', chain, unpack(ARGV, 3))
if redis.call('LLEN', chain) >= redis.call('LLEN', K.audit_order(ws)) then redis.call('SREM', K.audit_open(), ws) end
return 1
