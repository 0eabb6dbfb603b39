-- Accepts an execution: slot, record, indices, first event and queue entry, or nothing.
-- ARGV: ws, id, agent ('' inline), expected version ('' any), spec, priority, now, slots (-1 any), reply_to, event,
--       idempotency record ('' none), n labels, labels…, then node id and journal record by turns
local ws, id, agent, version, spec, priority, now = unpack(ARGV, 1, 7)
local slots, reply_to, event, idempotency, labels = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11], tonumber(ARGV[12])
local record = K.execution(ws, id)
if redis.call('EXISTS', record) == 1 then return {'ok'} end
if agent ~= '' then
  local found = redis.call('HMGET', K.agent(ws, agent), 'version', 'status')
  if not found[1] then return {'gone'} end
  if found[2] == 'inactive' then return {'inactive'} end
  if version ~= '' and found[1] ~= version then return {'version', found[1]} end
end
if slots >= 0 and redis.call('SCARD', K.active(ws)) >= slots then return {'full'} end

if not owns_key(idempotency, id) then return {'superseded'} end

local names = {}
for i = 1, labels do names[i] = ARGV[12 + i] end
redis.call('HSET', record, 'spec', spec, 'agent', agent, 'status', 'running', 'phase', 'queued', 'priority', priority,
  'created_at', now, 'epoch', 0, 'seq', 1, 'deliveries', 0, 'owner', '', 'reply_to', reply_to,
  'labels', table.concat(names, '\n'))
for i = 13 + labels, #ARGV, 2 do redis.call('HSET', K.nodes(ws, id), ARGV[i], ARGV[i + 1]) end
append(ws, id, 1, event)
redis.call('ZADD', K.executions(ws), 0, id)
redis.call('ZADD', K.executions_by(ws, 'status', 'running'), 0, id)
if agent ~= '' then
  redis.call('ZADD', K.executions_by(ws, 'agent', agent), 0, id)
  redis.call('HINCRBY', K.agent_stats(ws, agent), 'executions', 1)
end
for _, label in ipairs(names) do redis.call('ZADD', K.executions_by(ws, 'label', label), 0, id) end
redis.call('SADD', K.active(ws), id)
add_work(ws, id, tonumber(priority))
wake()
return {'ok'}
