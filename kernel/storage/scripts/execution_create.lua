-- Accepts an execution: slot, record, indices, first event and queue entry, or nothing.
-- ARGV: ws, id, agent ('' inline), expected version ('' any), spec, priority, now, slots (-1 any), reply_to, event,
--       idempotency record ('' none), API key, tokens of a day (-1 any), URL to be told of the end ('' none), n labels,
--       labels…, then node id and journal record by turns
local ws, id, agent, version, spec, priority, now = unpack(ARGV, 1, 7)
local slots, reply_to, event, idempotency, key = tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local tokens, hook, labels = tonumber(ARGV[13]), ARGV[14], tonumber(ARGV[15])
local record, day = K.execution(ws, id), utc_day(tonumber(now))
if redis.call('EXISTS', record) == 1 then return {'ok'} end
if agent ~= '' then
  local found = redis.call('HMGET', K.agent(ws, agent), 'version', 'status')
  if not found[1] then return {'gone'} end
  if found[2] == 'inactive' then return {'inactive'} end
  if version ~= '' and found[1] ~= version then return {'version', found[1]} end
end
if slots >= 0 and redis.call('SCARD', K.active(ws)) >= slots then return {'full'} end
local left = tokens - tonumber(tokens >= 0 and redis.call('HGET', K.spend(ws, day), 't') or 0)
if tokens >= 0 and left <= 0 then return {'tokens'} end

local cap
for _, budget in ipairs(budgets_over(ws, day, agent, key)) do
  if budget.hard_stop then
    if budget.spent >= budget.amount then return {'budget', budget.field, string.format('%.0f', budget.amount)} end
    cap = math.min(cap or budget.amount, budget.amount - budget.spent)
  end
end

if not owns_key(idempotency, id) then return {'superseded'} end

local names = {}
for i = 1, labels do names[i] = ARGV[15 + i] end
redis.call('HSET', record, 'spec', spec, 'agent', agent, 'status', 'running', 'phase', 'queued', 'priority', priority,
  'created_at', now, 'epoch', 0, 'seq', 1, 'deliveries', 0, 'owner', '', 'reply_to', reply_to, 'key', key,
  'labels', table.concat(names, '\n'))
if cap then redis.call('HSET', record, 'cap', string.format('%.0f', cap)) end
if hook ~= '' then redis.call('HSET', record, 'hook', hook) end
if tokens >= 0 then redis.call('HSET', record, 'cap_tokens', string.format('%.0f', left)) end
for i = 16 + labels, #ARGV, 2 do redis.call('HSET', K.nodes(ws, id), ARGV[i], ARGV[i + 1]) end
append(ws, id, 1, event)
redis.call('ZADD', K.executions(ws), 0, id)
redis.call('ZADD', K.executions_by(ws, 'status', 'running'), 0, id)
if agent ~= '' then
  redis.call('ZADD', K.executions_by(ws, 'agent', agent), 0, id)
  redis.call('HINCRBY', K.agent_stats(ws, agent), 'executions', 1)
end
for _, label in ipairs(names) do redis.call('ZADD', K.executions_by(ws, 'label', label), 0, id) end
redis.call('SADD', K.active(ws), id)
redis.call('SADD', K.busy(), ws)
add_work(ws, id, tonumber(priority))
wake()
tell_outside(ws, 'execution.started', now, id)
return {'ok'}
