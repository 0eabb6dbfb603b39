#!lua flags=no-writes
-- Estimates the bytes that a workspace's records take: a few executions and agents are weighed and stand for all.
-- ARGV: ws, how many of each to weigh
local ws, few = ARGV[1], tonumber(ARGV[2])

local function weight(...)
  local sum = 0
  for _, key in ipairs({...}) do sum = sum + (redis.call('MEMORY', 'USAGE', key) or 0) end
  return sum
end

-- All that a set of ids stands for. Each id is in some `indices` sets about as large as this one.
local function all(ids, indices, weight_of)
  local count = redis.call('ZCARD', ids)
  if count == 0 then return 0 end
  local chosen, sum = redis.call('ZRANDMEMBER', ids, few), 0
  for _, id in ipairs(chosen) do sum = sum + weight_of(id) end
  return count * sum / #chosen + indices * weight(ids)
end

local executions = all(K.executions(ws), 3, function(id)
  return weight(K.execution(ws, id), K.nodes(ws, id), K.events(ws, id))
end)
local agents = all(K.agents(ws), 6, function(id)
  return weight(K.agent(ws, id), K.agent_versions(ws, id), K.agent_history(ws, id), K.agent_stats(ws, id))
end)
local rest = weight(K.workspace(ws), K.workspace_keys(ws), K.members(ws), K.audit(ws), K.archive(ws), K.archived(ws),
  K.erased(ws), K.removed(ws), K.budgets(ws), K.outbox(ws))
return math.floor(executions + agents + rest)
