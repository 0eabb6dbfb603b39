#!lua flags=no-writes
-- Estimates the bytes that a workspace's records take: a few executions, agents, collections, jobs, credentials
-- and endpoints of webhooks are weighed and stand for all. Large hashes are weighed by a few of their fields, as MEMORY USAGE does it.
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
local collections = all(K.collections(ws), 1, function(id)
  return weight(K.collection(ws, id), K.documents(ws, id), K.documents_by_id(ws, id), K.documents_newest(ws, id),
    K.documents_kinds(ws, id), K.documents_stale(ws, id), K.jobs_by(ws, id))
end)
local jobs = all(K.jobs(ws), 1, function(id)
  return weight(K.job(ws, id), K.job_events(ws, id), K.job_blocks(ws, id), K.job_documents(ws, id, 'done'),
    K.job_documents(ws, id, 'skipped'), K.job_documents(ws, id, 'failed'), K.job_documents(ws, id, 'deleted'))
end)

local webhooks = all(K.webhooks(ws), 0, function(id)
  return weight(K.webhook(ws, id), K.webhook_deliveries(ws, id), K.webhook_queue(ws, id), K.webhook_log(ws, id),
    K.webhook_log_by(ws, id, 'pending'), K.webhook_log_by(ws, id, 'delivered'), K.webhook_log_by(ws, id, 'dead'))
end)

local credentials = all(K.credentials(ws), 3, function(id)
  return weight(K.credential(ws, id), K.credential_users(ws, id))
end)

-- Hours that are not in Parquet, of three days at most, and the spend of days and months that has not expired.
local function counts()
  local sum, oldest, now = 0, redis.call('ZSCORE', K.metered(), ws), server_now()
  for hour = oldest or 1, oldest and oldest + 71 or 0 do sum = sum + weight(K.usage(ws, string.format('%.0f', hour))) end
  local periods = {}
  for ago = 0, 31 do
    local day = utc_day(now - ago * 86400000)
    if ago < 3 then periods[day] = true end
    periods[string.sub(day, 1, 7)] = true
  end
  for period in pairs(periods) do sum = sum + weight(K.spend(ws, period), K.alerts(ws, period)) end
  return sum
end

local rest = weight(K.workspace(ws), K.workspace_keys(ws), K.members(ws), K.audit(ws), K.archive(ws), K.archived(ws),
  K.erased(ws), K.removed(ws), K.budgets(ws), K.webhook_events(ws), K.collection_names(ws),
  K.credential_names(ws))
return math.floor(executions + agents + collections + jobs + credentials + webhooks + counts() + rest)
