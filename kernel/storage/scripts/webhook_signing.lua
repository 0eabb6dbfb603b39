-- The secrets that sign what goes to URLs of executions, sealed; made of what is given when there are none yet.
-- ARGV: ws, sealed ('' only looks)
local ws, sealed = ARGV[1], ARGV[2]
local record = K.webhook(ws, 'signing')
if sealed ~= '' and redis.call('HSETNX', record, 'sealed', sealed) == 1 then
  redis.call('HSET', record, 'item', '{}', 'revision', 1, 'state', 'enabled')
  redis.call('SADD', K.sealed(), ws .. ' wh signing')
end
return redis.call('HGET', record, 'sealed')
