-- Shared by all scripts: KEYS[1] is the shard's prefix, K and C name keys and channels.

local function server_now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Puts one event into an execution's stream; the explicit id makes a repeated or missing seq impossible.
local function append(ws, id, seq, event)
  redis.call('XADD', K.events(ws, id), seq .. '-1', 'e', event)
end

-- Writes a runner's events and node records, as `execution_commit` is given them. The events, and where ARGV goes on;
-- or nothing, and 1 when it was written before, 0 when it may not be.
local function take_step(ws, id)
  local record = K.execution(ws, id)
  local was = redis.call('HMGET', record, 'epoch', 'seq', 'status')
  local base, events, lines = tonumber(ARGV[4]), tonumber(ARGV[6]), {}
  if was[1] ~= ARGV[3] then return nil, 0 end
  if tonumber(was[2]) == base + events and events > 0 then return nil, 1 end
  if tonumber(was[2]) ~= base or was[3] ~= 'running' then return nil, 0 end
  for i = 1, events do
    lines[i] = ARGV[6 + i]
    append(ws, id, base + i, lines[i])
  end
  if events > 0 then redis.call('HSET', record, 'seq', base + events) end
  local at = 7 + events
  local last = at + 2 * tonumber(ARGV[at])
  for i = at + 1, last, 2 do redis.call('HSET', K.nodes(ws, id), ARGV[i], ARGV[i + 1]) end
  return lines, last + 1
end

-- Tells those who watch: first seq, then the events, a line each; nothing after it when that would be too much.
local function announce(ws, id, first, events)
  local lines = table.concat(events, '\n')
  if #lines > 262144 then lines = '' end
  redis.call('PUBLISH', C.stream(ws, id), first .. '\n' .. lines)
end

-- Queues an execution: `priority` 0 high, 1 normal, 2 low, -1 before all (taken back from a lost runner).
local function add_work(ws, id, priority)
  local tick = redis.call('INCR', K.tick())
  redis.call('ZADD', K.queue(ws), priority * 1e13 + tick, id)
  redis.call('ZADD', K.ring(), 'NX', tick, ws)
end

-- Notes what a request with an Idempotency-Key creates; `record` is `<key of its record> <owner>`, '' for none.
-- False when the key has passed to a later try: this one was taken for lost, and may create nothing.
local function owns_key(record, id)
  if record == '' then return true end
  local key, owner = string.match(record, '^(%S+) (%S+)$')
  if redis.call('HGET', key, 'owner') ~= owner then return false end
  redis.call('HSET', key, 'resource', id)
  return true
end

-- Adds `<event id> <entry as JSON>` to a workspace's audit log, '' nothing. Nothing else writes there.
local function note_audit(ws, text)
  if text == '' then return end
  local id, entry = string.match(text, '^(%S+) (.*)$')
  entry = cjson.decode(entry)
  if redis.call('ZADD', K.audit(ws), 'NX', 0, text) == 0 then return end
  redis.call('RPUSH', K.audit_order(ws), id)
  redis.call('SADD', K.audit_open(), ws)
  for _, field in ipairs({'action', 'user_id', 'key_id'}) do
    if type(entry[field]) == 'string' then redis.call('ZADD', K.audit_by(ws, field, entry[field]), 'NX', 0, id) end
  end
end

-- Adds to the audit log what was done, or tried, in the vault; to the credential `id`, '' to none.
local function note_vault(ws, id, text)
  if text == '' then return end
  note_audit(ws, text)
  local event = string.match(text, '^%S+')
  redis.call('ZADD', K.audit_by(ws, 'vault', 'all'), 'NX', 0, event)
  if id ~= '' then redis.call('ZADD', K.audit_by(ws, 'credential', id), 'NX', 0, event) end
end

-- Tells every replica that a key, or something of a workspace (by its id), is not what it was.
local function access_changed(id)
  redis.call('INCR', K.access_turn())
  redis.call('PUBLISH', C.revoked(), id)
end

local function keep_key(ws, id, hash, record)
  redis.call('HSET', K.key(id), 'workspace', ws, 'hash', hash, 'record', record, 'used', 0)
  redis.call('ZADD', K.workspace_keys(ws), 0, id)
end

local function is_full_of_keys(ws, most)
  return redis.call('ZCARD', K.workspace_keys(ws)) >= tonumber(most)
end

-- With a key end its budgets.
local function end_key(ws, id)
  redis.call('DEL', K.key(id))
  redis.call('ZREM', K.workspace_keys(ws), id)
  redis.call('HDEL', K.budgets(ws), 'd|k|' .. id, 'm|k|' .. id)
  access_changed(id)
end

-- Whether all of these credentials are there; `ids` stand between spaces, '-' is none to look at.
local function has_credentials(ws, ids)
  for id in string.gmatch(ids, 'cred_%w+') do
    if redis.call('EXISTS', K.credential(ws, id)) == 0 then return false end
  end
  return true
end

-- `user` (`<kind> <id>`) uses these credentials too.
local function add_credentials(ws, user, ids)
  for id in string.gmatch(ids, 'cred_%w+') do
    redis.call('SADD', K.credentials_used(ws, user), id)
    redis.call('SADD', K.credential_users(ws, id), user)
  end
end

-- From now on `user` uses exactly these credentials; '-' leaves them as they are.
local function use_credentials(ws, user, ids)
  if ids == '-' then return end
  local of = K.credentials_used(ws, user)
  for _, id in ipairs(redis.call('SMEMBERS', of)) do redis.call('SREM', K.credential_users(ws, id), user) end
  redis.call('DEL', of)
  add_credentials(ws, user, ids)
end

local function wake()
  if redis.call('LLEN', K.wake()) == 0 then redis.call('LPUSH', K.wake(), '1') end
end

-- Puts an event into the outbox when an endpoint of the workspace wants it, or it is to go to a URL of its own. Its body
-- tells of the execution `id` as it is when it is made, or has `data`, which is JSON.
local function tell_outside(ws, event, now, id, data, url)
  local wants = redis.call('HMGET', K.webhook_events(ws), event, '*')
  if not wants[1] and not wants[2] and not url then return end
  local row = {'ws', ws, 'event', event, 'at', string.format('%.0f', now), id and 'x' or 'd', id or data}
  if url then row[9], row[10] = 'u', url end
  redis.call('XADD', K.outbox(), '*', unpack(row))
  redis.call('PUBLISH', C.outbox(), KEYS[1])
end

-- Tells others of an agent as it is now.
local function tell_agent(ws, event, agent)
  local found = redis.call('HMGET', K.agent(ws, agent), 'version', 'status', 'item')
  local data = {agent_id = agent, name = cjson.decode(found[3] or '{}').name, version = found[1], status = found[2]}
  tell_outside(ws, event, server_now(), nil, cjson.encode(data))
end

local function set_agent_status(ws, agent, status)
  local old = redis.call('HGET', K.agent(ws, agent), 'status')
  if not old or old == status then return end
  redis.call('ZREM', K.agents_by(ws, 'status', old), agent)
  redis.call('ZADD', K.agents_by(ws, 'status', status), 0, agent)
  redis.call('HSET', K.agent(ws, agent), 'status', status)
  redis.call('INCR', K.agents_turn(ws))
  if status == 'error' then tell_agent(ws, 'agent.error', agent) end
end

-- The hour that usage of this moment is added to: its own, or the first open one (and true) when that is closed.
local function use_hour(ws, ms)
  local hour = math.floor(ms / 3600000)
  local closed = tonumber(redis.call('GET', K.usage_closed(ws)) or -1)
  local late = hour <= closed
  if late then hour = closed + 1 end
  if redis.call('EXISTS', K.usage(ws, hour)) == 0 then redis.call('ZADD', K.metered(), 'NX', hour, ws) end
  return hour, late
end

-- The UTC day of a moment, such as 2026-11-25; its first 7 letters are the month.
local function utc_day(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local leaps = math.floor(of_era / 1460) - math.floor(of_era / 36524) + math.floor(of_era / 146096)
  local year = math.floor((of_era - leaps) / 365)
  local of_year = of_era - 365 * year - math.floor(year / 4) + math.floor(year / 100)
  local month = math.floor((5 * of_year + 2) / 153)
  local day = of_year - math.floor((153 * month + 2) / 5) + 1
  if month >= 10 then year, month = year + 1, month - 12 end
  return string.format('%04d-%02d-%02d', year + era * 400, month + 3, day)
end

local function utc_time(ms)
  local of_day = ms % 86400000
  local seconds = math.floor(of_day / 1000)
  return string.format('%sT%02d:%02d:%02d.%03dZ', utc_day(ms), math.floor(seconds / 3600),
    math.floor(seconds / 60) % 60, seconds % 60, of_day % 1000)
end

-- Spend and alerts of a day or month are of no use some time after its end.
local function expire_period(name, period)
  redis.call('EXPIRE', name, #period == 10 and 259200 or 3456000, 'NX')
end

-- A budget as it is stored under `<d|m>|<w|a|k>|<id>`, with what was spent of it in the period that holds `day`.
local function open_budget(ws, field, text, day)
  local budget, length = cjson.decode(text), nil
  length, budget.kind, budget.id = string.match(field, '^(%a)|(%a)|(.*)$')
  budget.field, budget.period = field, length == 'd' and day or string.sub(day, 1, 7)
  local of = budget.kind == 'w' and '' or '|' .. budget.kind .. '|' .. budget.id
  local spent = redis.call('HMGET', K.spend(ws, budget.period), 'c' .. of, 'y' .. of)
  budget.spent = tonumber(spent[1] or 0) + math.floor(tonumber(spent[2] or 0) / 1000)
  return budget
end

-- The budgets that bound what is spent with this agent and key; those that end last come first.
local function budgets_over(ws, day, agent, key)
  local fields = {'m|w|', 'm|a|' .. agent, 'm|k|' .. key, 'd|w|', 'd|a|' .. agent, 'd|k|' .. key}
  local found, out = redis.call('HMGET', K.budgets(ws), unpack(fields)), {}
  for i, field in ipairs(fields) do
    if found[i] then out[#out + 1] = open_budget(ws, field, found[i], day) end
  end
  return out
end

local function alert_field(budget, threshold)
  return string.format('%s|%s|%.14g', budget.kind, budget.id, threshold)
end

local function has_reached(budget, threshold)
  return budget.spent >= math.max(1, math.floor(threshold * budget.amount + 0.5))
end

-- When a threshold was told of in the budget's period, with its amount or a greater one; '' not yet.
local function told_at(ws, budget, threshold)
  local told = redis.call('HGET', K.alerts(ws, budget.period), alert_field(budget, threshold)) or ''
  local at, amount = string.match(told, '^(%d+) (%d+)$')
  return at and tonumber(amount) >= budget.amount and at or ''
end

-- Tells once of each threshold that a budget's spend has reached in its period; of a raised budget's once more.
local function tell_budget(ws, budget, now)
  local alerts, daily = K.alerts(ws, budget.period), #budget.period == 10
  for _, threshold in ipairs(budget.alerts) do
    if has_reached(budget, threshold) and told_at(ws, budget, threshold) == '' then
      redis.call('HSET', alerts, alert_field(budget, threshold), string.format('%.0f %.0f', now, budget.amount))
      expire_period(alerts, budget.period)
      local data = {
        scope = ({w = 'workspace', a = 'agent', k = 'key'})[budget.kind],
        id = budget.id ~= '' and budget.id or cjson.null,
        period = daily and 'day' or 'month',
        period_start = budget.period .. (daily and '' or '-01') .. 'T00:00:00.000Z',
        amount = budget.amount / 1e6,
        spent = budget.spent / 1e6,
        threshold = threshold,
      }
      tell_outside(ws, 'usage.threshold', now, nil, cjson.encode(data))
    end
  end
end

-- All budgets: a mark that changes with them, then of each {field, JSON, spent, when each threshold was reached or ''}.
local function budget_rows(ws, day)
  local flat, texts, rows = redis.call('HGETALL', K.budgets(ws)), {}, {}
  for i = 1, #flat, 2 do
    local budget, reached = open_budget(ws, flat[i], flat[i + 1], day), {}
    for n, threshold in ipairs(budget.alerts) do
      reached[n] = told_at(ws, budget, threshold)
    end
    texts[#texts + 1] = flat[i] .. ' ' .. flat[i + 1]
    rows[#rows + 1] = {flat[i], flat[i + 1], string.format('%.0f', budget.spent), reached}
  end
  table.sort(texts)
  return string.sub(redis.sha1hex(table.concat(texts, '\n')), 1, 16), rows
end

-- A number that counts something; whatever else it is given is 0.
local function amount(value)
  if type(value) ~= 'number' or not (value > 0 and value < 9e15) then return 0 end
  return value
end

local function rounded(value)
  return math.floor(amount(value) + 0.5)
end

-- The object or array in a JSON text; empty for any other text.
local function decoded(text)
  local read, value = pcall(cjson.decode, text)
  return read and type(value) == 'table' and value or {}
end

-- What an ended execution adds to each count, and of each model {tokens, cost}, by the field `spent` of its record.
-- Of a cost that is not known it is `k`, the part that is.
local function use_of(spent)
  local said = spent and decoded(spent) or {}
  local use = {e = 1, t = rounded(said.t), c = rounded(said.c == cjson.null and said.k or said.c), p = rounded(said.p), g = rounded(said.g)}
  use.u = said.c == cjson.null and 1 or 0
  return use, type(said.m) == 'table' and said.m or {}
end

local function add_use(name, use, tail)
  for metric, count in pairs(use) do
    if count > 0 then redis.call('HINCRBY', name, metric .. tail, string.format('%.0f', count)) end
  end
end

-- A label as its hour counts it: itself, or `(other)` when 1,000 others are counted already.
local function label_in(ws, hour, label)
  if redis.call('HEXISTS', K.usage(ws, hour), 'e|l|' .. label) == 1 then return label end
  local known = K.usage_labels(ws, hour)
  if tonumber(redis.call('GET', known) or 0) >= 1000 then return '(other)' end
  redis.call('INCR', known)
  redis.call('EXPIRE', known, 172800)
  return label
end

-- Adds to the spend of day and month, and tells of budgets that this brings to a threshold.
local function count_spend(ws, now, agent, key, use)
  local day = utc_day(now)
  for _, period in ipairs({day, string.sub(day, 1, 7)}) do
    local spend = K.spend(ws, period)
    add_use(spend, {t = use.t, c = use.c}, '')
    if agent ~= '' then add_use(spend, {c = use.c}, '|a|' .. agent) end
    if key ~= '' then add_use(spend, {c = use.c}, '|k|' .. key) end
    expire_period(spend, period)
  end
  if use.c == 0 then return end
  for _, budget in ipairs(budgets_over(ws, day, agent, key)) do tell_budget(ws, budget, now) end
end

-- Adds what an ended execution used to its hour, in all and by agent, key, label and model, and to what was spent.
local function count_use(ws, now, agent, key, labels, spent)
  local use, models = use_of(spent)
  local hour, late = use_hour(ws, now)
  local bucket, counted = K.usage(ws, hour), {}
  for label in string.gmatch(labels, '[^\n]+') do counted[label_in(ws, hour, label)] = true end
  if labels == '' then counted[''] = true end
  add_use(bucket, use, '')
  if late then redis.call('HINCRBY', bucket, 'n', 1) end
  if agent ~= '' then add_use(bucket, use, '|a|' .. agent) end
  if key ~= '' then add_use(bucket, use, '|k|' .. key) end
  for label in pairs(counted) do add_use(bucket, use, '|l|' .. label) end
  for model, said in pairs(models) do
    if type(said) == 'table' then
      local unpriced = said[2] == cjson.null and 1 or 0
      add_use(bucket, {t = rounded(said[1]), c = rounded(said[2]), u = unpriced}, '|m|' .. model)
    end
  end
  if use.t + use.c > 0 then count_spend(ws, now, agent, key, use) end
end

-- Adds the cost of embeddings, in thousandths of a millionth of a USD, to the spend of day and month.
local function spend_embedded(ws, now, key, cost)
  if cost == 0 then return end
  local day = utc_day(now)
  for _, period in ipairs({day, string.sub(day, 1, 7)}) do
    add_use(K.spend(ws, period), {y = cost}, '')
    if key ~= '' then add_use(K.spend(ws, period), {y = cost}, '|k|' .. key) end
    expire_period(K.spend(ws, period), period)
  end
  for _, budget in ipairs(budgets_over(ws, day, '', key)) do tell_budget(ws, budget, now) end
end

-- Adds what was embedded to its hour, in all and by model, collection and key, and its cost to what was spent. `rows` is
-- JSON, '' for nothing: of each {model, collection ('' several), tokens, cost as in `spend_embedded`, null when unknown}.
local function count_embedded(ws, now, key, rows)
  if rows == '' then return end
  local bucket, cost = K.usage(ws, (use_hour(ws, now))), 0
  for _, row in ipairs(decoded(rows)) do
    local use = {x = rounded(row[3]), y = rounded(row[4]), z = row[4] == cjson.null and 1 or 0}
    add_use(bucket, use, '')
    add_use(bucket, use, '|m|' .. row[1])
    if row[2] ~= '' then add_use(bucket, use, '|o|' .. row[2]) end
    if key ~= '' then add_use(bucket, use, '|k|' .. key) end
    cost = cost + use.y
  end
  spend_embedded(ws, now, key, cost)
end

-- Adds a model call of the journal to `sum`, whose costs are in USD; an unknown cost makes sums unknown.
local function add_call(sum, call)
  if type(call) ~= 'table' or type(call.model) ~= 'string' then return end
  local tokens, cost = amount(call.input) + amount(call.output), amount(call.cost)
  local model = sum.m[call.model] or {0, 0}
  sum.m[call.model] = model
  sum.t, sum.c, model[1], model[2] = sum.t + tokens, sum.c + cost, model[1] + tokens, model[2] + cost
  if call.cost == cjson.null then sum.unknown, model.unknown = true, true end
end

local function add_node(sum, node)
  if node.reused == true then return end
  sum.p, sum.g = sum.p + 1000 * amount(node.cpu_seconds), sum.g + 1000 * amount(node.gpu_seconds)
  sum.c = sum.c + amount(node.machine_cost)
  for _, call in ipairs(type(node.uses) == 'table' and node.uses or {}) do add_call(sum, call) end
end

-- What an execution used by its journal, as facts of its record: for an end that nobody tells the use of.
local function journal_facts(ws, id)
  local sum = {t = 0, c = 0, p = 0, g = 0, m = {}}
  for _, text in ipairs(redis.call('HVALS', K.nodes(ws, id))) do add_node(sum, decoded(text)) end
  local cost = rounded(1e6 * sum.c)
  local use = {t = rounded(sum.t), c = cost, p = rounded(sum.p), g = rounded(sum.g), m = {}}
  if sum.unknown then use.c, use.k = cjson.null, cost end
  for name, model in pairs(sum.m) do
    use.m[name] = {rounded(model[1]), model.unknown and cjson.null or rounded(1e6 * model[2])}
  end
  local facts = {'tokens_used', string.format('%.0f', use.t)}
  if not sum.unknown then facts[3], facts[4] = 'cost', string.format('%.6f', cost / 1e6) end
  if sum.unknown or use.t + cost + use.p + use.g > 0 then
    facts[#facts + 1] = 'spent'
    facts[#facts + 1] = cjson.encode(use)
  end
  return facts
end

-- An agent errs after five ends in a row that failed; a success clears it. `inactive` is left to people.
local function count_end(ws, agent, status)
  if agent == '' or redis.call('EXISTS', K.agent(ws, agent)) == 0 then return end
  local stats = K.agent_stats(ws, agent)
  redis.call('HINCRBY', stats, status, 1)
  local current = redis.call('HGET', K.agent(ws, agent), 'status')
  if status == 'completed' then
    redis.call('HSET', stats, 'streak', 0)
    if current == 'error' then set_agent_status(ws, agent, 'active') end
  elseif status ~= 'cancelled' then
    local streak = redis.call('HINCRBY', stats, 'streak', 1)
    if streak >= 5 and current == 'active' then set_agent_status(ws, agent, 'error') end
  end
end

-- Notes what a deleted execution had counted, under the day it ended on: usage keeps it, and the books must balance.
local function note_removed(ws, ended, spent)
  local use, day = use_of(spent), utc_day(tonumber(ended))
  add_use(K.removed(ws), {[day .. '|e'] = use.e, [day .. '|t'] = use.t, [day .. '|c'] = use.c}, '')
end

-- The terminal step: everything that an end changes, in one go. `facts` are further fields of the record; without what
-- was used among them, the journal tells it. `shown` is the ended execution as callers see it, for whoever waits (''
-- lets them read it).
local function finish(ws, id, status, now, facts, shown)
  local record = K.execution(ws, id)
  local was = redis.call('HMGET', record, 'agent', 'owner', 'reply_to', 'key', 'labels', 'hook')
  redis.call('HSET', record, 'status', status, 'phase', '', 'owner', '', 'completed_at', now, unpack(facts))
  redis.call('ZREM', K.executions_by(ws, 'status', 'running'), id)
  redis.call('ZADD', K.executions_by(ws, 'status', status), 0, id)
  redis.call('ZADD', K.ended(), now, ws .. ' ' .. id)
  redis.call('SREM', K.active(ws), id)
  tell_outside(ws, 'execution.' .. status, now, id, nil, was[6])
  if was[2] and was[2] ~= '' then redis.call('SREM', K.held(was[2]), ws .. ' ' .. id) end
  count_end(ws, was[1] or '', status)
  if was[3] and was[3] ~= '' then redis.call('PUBLISH', C.replies(was[3]), id .. '\n' .. (shown or '')) end
  local counted, problem = pcall(function()
    local used = redis.call('HMGET', record, 'tokens_used', 'spent')
    if not used[1] then
      redis.call('HSET', record, unpack(journal_facts(ws, id)))
      used[2] = redis.call('HGET', record, 'spent')
    end
    count_use(ws, tonumber(now), was[1] or '', was[4] or '', was[5] or '', used[2])
  end)
  if not counted then
    problem = tostring(type(problem) == 'table' and problem.err or problem)
    redis.log(redis.LOG_WARNING, 'usage of ' .. ws .. ' ' .. id .. ' is not counted: ' .. problem)
  end
end

-- Takes an execution from a runner: back to the queue, or failed when `most` runners have lost it already.
local function take_back(ws, id, runner, now, most, problem, event)
  local record = K.execution(ws, id)
  local was = redis.call('HMGET', record, 'status', 'owner', 'deliveries', 'seq')
  redis.call('SREM', K.held(runner), ws .. ' ' .. id)
  if was[1] ~= 'running' or was[2] ~= runner then return 'gone' end
  redis.call('HINCRBY', record, 'epoch', 1)
  if tonumber(was[3]) >= most then
    append(ws, id, was[4] + 1, event)
    redis.call('HSET', record, 'seq', was[4] + 1)
    finish(ws, id, 'failed', now, {'error', problem})
    announce(ws, id, was[4] + 1, {event})
    return 'failed'
  end
  redis.call('HSET', record, 'owner', '', 'phase', 'queued')
  add_work(ws, id, -1)
  return 'queued'
end

-- What a job has come to, as JSON.
local function job_counts(ws, id)
  return string.format('{"progress":{"discovered":%s,"done":%s,"skipped":%s,"failed":%s,"deleted":%s},'
    .. '"chunks":%s,"bytes":%s}', unpack(redis.call('HMGET', K.job(ws, id), 'discovered', 'done', 'skipped', 'failed',
    'deleted', 'chunks', 'bytes')))
end

-- Tells those who watch a job of events, each {type, data as JSON}.
local function tell_job(ws, id, now, events)
  if #events == 0 then return end
  local lines, last = {}, redis.call('HINCRBY', K.job(ws, id), 'seq', #events)
  for i, event in ipairs(events) do
    lines[i] = string.format('{"timestamp":"%s","type":"%s","data":%s}', utc_time(now), event[1], event[2])
    redis.call('XADD', K.job_events(ws, id), (last - #events + i) .. '-1', 'e', lines[i])
  end
  announce(ws, id, last - #events + 1, lines)
end

-- Whether a driver of this epoch may still write to a job.
local function holds_job(ws, id, epoch)
  local was = redis.call('HMGET', K.job(ws, id), 'status', 'epoch')
  return was[1] == 'running' and was[2] == epoch
end

-- Tells others that a job has ended, unless somebody cancelled it. `problem` is JSON, '' for none.
local function tell_ingestion(ws, id, status, now, problem)
  if status == 'cancelled' then return end
  local event = status == 'failed' and 'ingestion.failed' or 'ingestion.completed'
  local data = string.format('{"job_id":"%s","collection_id":"%s","status":"%s","error":%s,%s', id,
    redis.call('HGET', K.job(ws, id), 'collection') or '', status, problem ~= '' and problem or 'null',
    string.sub(job_counts(ws, id), 2))
  tell_outside(ws, event, now, nil, data)
end

-- A re-index is over: nothing of it is left in its collection's record.
local function leave_reindex(ws, collection)
  redis.call('HDEL', K.collection(ws, collection), 'reindex', 'target', 'next', 'next_vectors', 'next_chunks',
    'next_documents', 'held')
  redis.call('UNLINK', K.documents_behind(ws, collection))
end

-- With a job that was to make a collection's vectors anew goes what it has made of them.
local function give_up_reindex(ws, id)
  local collection = redis.call('HGET', K.job(ws, id), 'collection')
  local found = redis.call('HMGET', K.collection(ws, collection), 'reindex', 'next_vectors')
  if found[1] ~= id then return end
  redis.call('ZADD', K.vectors_left(), 0, found[2])
  leave_reindex(ws, collection)
end

-- The end of a job, in one go; what is known of its documents lives 30 days more. `problem` is JSON, '' for none.
local function finish_job(ws, id, status, now, problem)
  local record, member = K.job(ws, id), ws .. ' ' .. id
  redis.call('HINCRBY', record, 'epoch', 1)
  redis.call('HSET', record, 'status', status, 'driver', '', 'completed_at', now, 'error', problem)
  redis.call('SREM', K.jobs_active(ws), id)
  redis.call('ZREM', K.jobs_waiting(), member)
  redis.call('ZREM', K.jobs_running(), member)
  give_up_reindex(ws, id)
  tell_job(ws, id, now, {{'job.' .. status, job_counts(ws, id)}})
  tell_ingestion(ws, id, status, now, problem)
  redis.call('DEL', K.job_blocks(ws, id))
  redis.call('EXPIRE', K.job_events(ws, id), 2592000)
  for _, outcome in ipairs({'done', 'skipped', 'failed', 'deleted'}) do
    redis.call('EXPIRE', K.job_documents(ws, id, outcome), 2592000)
  end
end

-- How many documents a job's listing has found so far; never fewer than were settled.
local function note_listed(ws, id, discovered, listed)
  local was = redis.call('HMGET', K.job(ws, id), 'discovered', 'done', 'skipped', 'failed')
  local most = math.max(tonumber(discovered), was[1], was[2] + was[3] + was[4])
  redis.call('HSET', K.job(ws, id), 'discovered', string.format('%.0f', most), 'listed', listed)
end

-- Tells of events, of failed documents the first 1,000 of a job, and of its counts unless it did so a moment ago:
-- the longer it runs the rarer, so that the stream stays small.
local function tell_progress(ws, id, now, events)
  local record = K.job(ws, id)
  local was = redis.call('HMGET', record, 'told_at', 'run_at', 'told')
  local told = tonumber(was[3] or 0)
  for i = #events, math.max(0, 1000 - told) + 1, -1 do events[i] = nil end
  redis.call('HSET', record, 'told', told + #events)
  if now - was[1] >= math.max(500, (now - was[2]) / 1000) then
    redis.call('HSET', record, 'told_at', now)
    note_listed(ws, id, 0, redis.call('HGET', record, 'listed'))
    events[#events + 1] = {'job.progress', job_counts(ws, id)}
  end
  tell_job(ws, id, now, events)
end

-- Adds bytes of documents to the usage of their hour, in all, by collection and by key, and to those of their day.
local function count_ingested(ws, id, now, collection, bytes)
  if bytes == 0 then return end
  local use, key = {i = bytes}, redis.call('HGET', K.job(ws, id), 'key')
  local bucket = K.usage(ws, (use_hour(ws, now)))
  add_use(bucket, use, '')
  add_use(bucket, use, '|o|' .. collection)
  if key ~= '' then add_use(bucket, use, '|k|' .. key) end
  local day = utc_day(now)
  add_use(K.spend(ws, day), use, '')
  expire_period(K.spend(ws, day), day)
end

local function forget_job(ws, collection, id)
  redis.call('DEL', K.job(ws, id), K.job_events(ws, id), K.job_blocks(ws, id), K.job_documents(ws, id, 'done'),
    K.job_documents(ws, id, 'skipped'), K.job_documents(ws, id, 'failed'), K.job_documents(ws, id, 'deleted'))
  redis.call('ZREM', K.jobs(ws), id)
  redis.call('ZREM', K.jobs_by(ws, collection), id)
  redis.call('SREM', K.jobs_active(ws), id)
  redis.call('ZREM', K.jobs_waiting(), ws .. ' ' .. id)
  redis.call('ZREM', K.jobs_running(), ws .. ' ' .. id)
end

-- A new job's record, its place in the queue and in the indices. Of a collection the last 1,000 jobs are kept: answers
-- {'ok', those that gave way…}.
local function add_job(ws, id, collection, order, size, key, retry_of, now)
  redis.call('HSET', K.job(ws, id), 'collection', collection, 'order', order, 'size', size, 'key', key,
    'retry_of', retry_of, 'status', 'queued', 'created_at', now, 'driver', '', 'epoch', 0, 'deliveries', 0, 'seq', 0,
    'error', '', 'listed', '', 'discovered', 0, 'done', 0, 'skipped', 0, 'failed', 0, 'deleted', 0, 'chunks', 0,
    'bytes', 0)
  redis.call('ZADD', K.jobs(ws), 0, id)
  redis.call('ZADD', K.jobs_by(ws, collection), 0, id)
  redis.call('SADD', K.jobs_active(ws), id)
  redis.call('ZADD', K.jobs_waiting(), now, ws .. ' ' .. id)
  redis.call('PUBLISH', C.jobs(), ws .. ' ' .. id)
  local out = {'ok'}
  for _, old in ipairs(redis.call('ZRANGE', K.jobs_by(ws, collection), 0, 1)) do
    if redis.call('ZCARD', K.jobs_by(ws, collection)) > 1000 and redis.call('SISMEMBER', K.jobs_active(ws), old) == 0 then
      forget_job(ws, collection, old)
      out[#out + 1] = old
    end
  end
  return out
end

-- Keeps the first 10,000 documents that came to the same.
local function keep_document(ws, id, outcome, note)
  local list = K.job_documents(ws, id, outcome)
  if redis.call('LLEN', list) < 10000 then redis.call('RPUSH', list, note) end
end

-- A collection as `kernel.storage.knowledge` reads it: item, revision, live, chunks, bytes, documents, reindex, target.
local function collection_row(ws, id)
  local row = redis.call('HMGET', K.collection(ws, id), 'item', 'revision', 'live', 'chunks', 'bytes', 'reindex', 'target')
  table.insert(row, 6, redis.call('HLEN', K.documents(ws, id)))
  return row
end

-- Whether a collection may have this name, in lower case.
local function is_free_name(ws, id, name)
  local holder = redis.call('HGET', K.collection_names(ws), name)
  return not holder or holder == id
end

-- Gives a collection another name; both in lower case. False when another collection has it.
local function rename_collection(ws, id, was, name)
  if not is_free_name(ws, id, name) then return false end
  redis.call('HDEL', K.collection_names(ws), was)
  redis.call('HSET', K.collection_names(ws), name, id)
  return true
end

-- Where a document stands among the newest: an id that begins with the moment it was taken in, then its own.
local function document_place(id, at)
  local digits, time = '0123456789ABCDEFGHJKMNPQRSTVWXYZ', ''
  at = rounded(at)
  for _ = 1, 10 do
    local digit = at % 32 + 1
    time, at = string.sub(digits, digit, digit) .. time, math.floor(at / 32)
  end
  return 'doc_' .. time .. string.sub(id, 5, 20) .. ' ' .. id
end

-- How many chunks a document has in the vectors of that number by a re-index; nil when it was none that made them.
local function remade(entry, number)
  local said = entry.remade
  return type(said) == 'table' and said[1] == tonumber(number) and said[2] or nil
end

-- Adds a document to those that the re-index under way has made anew, or takes it away (sign -1).
local function count_remade(ws, collection, entry, sign)
  local record = K.collection(ws, collection)
  local chunks = remade(entry, redis.call('HGET', record, 'next'))
  if not chunks then return end
  redis.call('HINCRBY', record, 'next_chunks', sign * chunks)
  redis.call('HINCRBY', record, 'next_documents', sign)
end

-- A document comes, or goes (sign -1): the re-index under way, if there is one, has to look at it again.
local function fall_behind(ws, collection, id, entry, sign)
  if redis.call('HEXISTS', K.collection(ws, collection), 'next') == 0 then return end
  count_remade(ws, collection, entry, sign)
  redis.call('SADD', K.documents_behind(ws, collection), id .. ' ' .. tostring(entry.version))
end

-- Adds a document's numbers to its collection's, or takes them away (sign -1).
local function count_document(ws, collection, entry, sign)
  local chunks = remade(entry, redis.call('HGET', K.collection(ws, collection), 'live')) or rounded(entry.chunks)
  redis.call('HINCRBY', K.collection(ws, collection), 'chunks', sign * chunks)
  redis.call('HINCRBY', K.collection(ws, collection), 'bytes', sign * rounded(entry.bytes))
  local kinds, kind = K.documents_kinds(ws, collection), tostring(entry.source_type)
  if redis.call('HINCRBY', kinds, kind, sign) < 1 then redis.call('HDEL', kinds, kind) end
end

-- Puts a collection among those that have chunks to be deleted, or takes it away.
local function settle_stale(ws, collection)
  local left = redis.call('SCARD', K.documents_stale(ws, collection)) > 0
  redis.call(left and 'SADD' or 'SREM', K.stale(), ws .. ' ' .. collection)
end

-- Takes a document out of the manifest; its chunks are stale from now on. False when it is not in it.
local function drop_document(ws, collection, id)
  local text = redis.call('HGET', K.documents(ws, collection), id)
  if not text then return false end
  local entry = decoded(text)
  redis.call('HDEL', K.documents(ws, collection), id)
  redis.call('ZREM', K.documents_by_id(ws, collection), id)
  redis.call('ZREM', K.documents_newest(ws, collection), document_place(id, entry.at))
  redis.call('SADD', K.documents_stale(ws, collection), id .. ' ' .. tostring(entry.version))
  settle_stale(ws, collection)
  count_document(ws, collection, entry, -1)
  fall_behind(ws, collection, id, entry, -1)
  return true
end

-- Puts a document into the manifest, in place of what it was before; from now on searches show this version.
local function put_document(ws, collection, id, text)
  local entry = decoded(text)
  drop_document(ws, collection, id)
  redis.call('HSET', K.documents(ws, collection), id, text)
  redis.call('ZADD', K.documents_by_id(ws, collection), 0, id)
  redis.call('ZADD', K.documents_newest(ws, collection), 0, document_place(id, entry.at))
  redis.call('SREM', K.documents_stale(ws, collection), id .. ' ' .. tostring(entry.version))
  settle_stale(ws, collection)
  count_document(ws, collection, entry, 1)
  fall_behind(ws, collection, id, entry, 1)
end

local function in_all(sets, id)
  for _, set in ipairs(sets) do
    if not redis.call('ZSCORE', set, id) then return false end
  end
  return true
end

-- Up to limit + 1 ids of what is in all `sets`, by walking the first and looking into the others.
local function walk(sets, top, low, offset, limit)
  local ids, seen, cursor, size = {}, 0, top, 2 * limit
  while true do
    local chunk = redis.call('ZREVRANGEBYLEX', sets[1], cursor, low, 'LIMIT', 0, size)
    for _, id in ipairs(chunk) do
      if in_all(sets, id) then
        seen = seen + 1
        if seen > offset then ids[#ids + 1] = id end
        if #ids > limit then return ids end
      end
    end
    if #chunk < size then return ids end
    cursor, size = '(' .. chunk[size], math.min(2 * size, 1000)
  end
end

local function smallest_first(sets)
  table.sort(sets, function(a, b) return redis.call('ZCARD', a) < redis.call('ZCARD', b) end)
end

-- A page of ids, newest first, of what is in all `sets` (zsets of score 0) and, of a single one, between two lexical
-- bounds: for several sets with bounds there is `meet.lua`. Returns up to limit + 1 ids (the one more tells that there is more) and the total without `before`.
local function page(sets, low, high, before, offset, limit)
  smallest_first(sets)
  local all = low == '-' and high == '+'
  local top = before ~= '' and '(' .. before or high
  if #sets == 1 then
    local total = all and redis.call('ZCARD', sets[1]) or redis.call('ZLEXCOUNT', sets[1], low, high)
    if all and before == '' then
      return redis.call('ZREVRANGE', sets[1], offset, offset + limit), total
    end
    return redis.call('ZREVRANGEBYLEX', sets[1], top, low, 'LIMIT', offset, limit + 1), total
  end
  return walk(sets, top, low, offset, limit), redis.call('ZINTERCARD', #sets, unpack(sets))
end

-- Counts an endpoint's events (between spaces) among those that are wanted, or takes them away (sign -1).
local function count_wants(ws, events, sign)
  for event in string.gmatch(events, '%S+') do
    if redis.call('HINCRBY', K.webhook_events(ws), event, sign) < 1 then redis.call('HDEL', K.webhook_events(ws), event) end
  end
end

-- Puts a workspace among those with something to deliver, by the first of it, or takes it away.
local function settle_workspace(ws)
  local first = redis.call('ZRANGE', K.webhooks_due(ws), 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', K.due(), first[2], ws) else redis.call('ZREM', K.due(), ws) end
end

-- The same of an endpoint, and of its workspace. While it pauses after a failure, nothing of it is due.
local function settle_due(ws, webhook)
  local first = redis.call('ZRANGE', K.webhook_queue(ws, webhook), 0, 0, 'WITHSCORES')
  local found = redis.call('HMGET', K.webhook(ws, webhook), 'state', 'paused_until')
  if first[2] and found[1] == 'enabled' then
    local at = math.max(tonumber(first[2]), tonumber(found[2] or 0))
    redis.call('ZADD', K.webhooks_due(ws), string.format('%.0f', at), webhook)
  else
    redis.call('ZREM', K.webhooks_due(ws), webhook)
  end
  settle_workspace(ws)
end

-- Puts a message among those that no delivery waits for: of these the newest 2,000 of a workspace stay.
local function end_message(ws, id)
  local ended = K.messages_ended(ws)
  redis.call('ZADD', ended, 0, id)
  while redis.call('ZCARD', ended) > 2000 do
    local oldest = redis.call('ZRANGE', ended, 0, 0)[1]
    redis.call('ZREM', ended, oldest)
    redis.call('UNLINK', K.message(ws, oldest))
  end
end

-- Counts a delivery of so many bytes among those that wait in a workspace (sign 1), or takes it away (-1).
local function count_waiting(ws, id, size, sign)
  local count = K.webhooks_waiting(ws)
  if redis.call('INCRBY', count, sign * size) < 1 then redis.call('DEL', count) end
  if redis.call('EXISTS', K.message(ws, id)) == 0 then return end
  if redis.call('HINCRBY', K.message(ws, id), 'waiting', sign) < 1 then return end_message(ws, id) end
  redis.call('ZREM', K.messages_ended(ws), id)
end

-- Whether no more may wait: `most` deliveries to an endpoint, or 64 MB in its workspace.
local function is_full_of_deliveries(ws, webhook, most)
  return redis.call('ZCARD', K.webhook_log_by(ws, webhook, 'pending')) >= tonumber(most)
    or tonumber(redis.call('GET', K.webhooks_waiting(ws)) or 0) >= 67108864
end

-- Forgets a message once no endpoint knows it any more.
local function leave_message(ws, id)
  local message = K.message(ws, id)
  if redis.call('EXISTS', message) == 1 and redis.call('HINCRBY', message, 'known', -1) > 0 then return end
  redis.call('DEL', message)
  redis.call('ZREM', K.messages_ended(ws), id)
end

local function forget_delivery(ws, webhook, id, status)
  redis.call('ZREM', K.webhook_log(ws, webhook), id)
  redis.call('ZREM', K.webhook_log_by(ws, webhook, status), id)
  redis.call('HDEL', K.webhook_deliveries(ws, webhook), id)
  leave_message(ws, id)
end

-- All that is kept of an endpoint and its deliveries.
local function forget_webhook(ws, webhook)
  for _, id in ipairs(redis.call('ZRANGE', K.webhook_log_by(ws, webhook, 'pending'), 0, -1)) do
    count_waiting(ws, id, cjson.decode(redis.call('HGET', K.webhook_deliveries(ws, webhook), id)).size, -1)
  end
  for _, id in ipairs(redis.call('ZRANGE', K.webhook_log(ws, webhook), 0, -1)) do leave_message(ws, id) end
  redis.call('UNLINK', K.webhook(ws, webhook), K.webhook_queue(ws, webhook), K.webhook_flying(ws, webhook),
    K.webhook_log(ws, webhook), K.webhook_deliveries(ws, webhook), K.webhook_log_by(ws, webhook, 'pending'),
    K.webhook_log_by(ws, webhook, 'delivered'), K.webhook_log_by(ws, webhook, 'dead'))
  settle_due(ws, webhook)
  redis.call('SREM', K.aloft(), ws .. ' ' .. webhook)
end

-- Writes a delivery with its status, `was` before ('' new); of those that ended alike the newest 1,000 stay.
local function put_delivery(ws, webhook, id, delivery, was)
  local alike, waits = K.webhook_log_by(ws, webhook, delivery.status), delivery.status == 'pending'
  if was ~= '' then redis.call('ZREM', K.webhook_log_by(ws, webhook, was), id) end
  redis.call('ZADD', K.webhook_log(ws, webhook), 0, id)
  redis.call('ZADD', alike, 0, id)
  redis.call('HSET', K.webhook_deliveries(ws, webhook), id, cjson.encode(delivery))
  if waits ~= (was == 'pending') then count_waiting(ws, id, delivery.size, waits and 1 or -1) end
  if waits then return end
  redis.call('ZREM', K.webhook_queue(ws, webhook), id)
  while redis.call('ZCARD', alike) > 1000 do
    forget_delivery(ws, webhook, redis.call('ZRANGE', alike, 0, 0)[1], delivery.status)
  end
end

-- A new delivery of a message to an endpoint, due now; dead at once when too many wait (`most` for the endpoint).
-- size: bytes of its body, and 2 kB for what is kept beside it.
local function add_delivery(ws, webhook, id, delivery, now, most)
  delivery.created_at, delivery.tries = now, 0
  delivery.size = redis.call('HSTRLEN', K.message(ws, id), 'body') + 2048
  redis.call('HINCRBY', K.message(ws, id), 'known', 1)
  if is_full_of_deliveries(ws, webhook, most) then
    delivery.status = 'dead'
    delivery.attempts = {{at = now, duration_ms = 0, status_code = cjson.null, error = 'queue_full', body = ''}}
    return put_delivery(ws, webhook, id, delivery, '')
  end
  delivery.status = 'pending'
  put_delivery(ws, webhook, id, delivery, '')
  redis.call('ZADD', K.webhook_queue(ws, webhook), now, id)
  settle_due(ws, webhook)
end

-- The body of an event, for 7 days. It stays until `close_message`, to be called once all its deliveries were added.
local function put_message(ws, id, body)
  redis.call('HSET', K.message(ws, id), 'body', body, 'known', 1, 'waiting', 0)
  redis.call('EXPIRE', K.message(ws, id), 604800)
end

local function close_message(ws, id)
  leave_message(ws, id)
  if redis.call('HGET', K.message(ws, id), 'waiting') == '0' then end_message(ws, id) end
end

-- Makes all that is in flight in this shard due again, at once.
local function ground(now)
  for _, member in ipairs(redis.call('SMEMBERS', K.aloft())) do
    local ws, webhook = string.match(member, '^(%S+) (%S+)$')
    local flying = K.webhook_flying(ws, webhook)
    for _, id in ipairs(redis.call('SMEMBERS', flying)) do redis.call('ZADD', K.webhook_queue(ws, webhook), now, id) end
    redis.call('DEL', flying)
    settle_due(ws, webhook)
  end
  redis.call('DEL', K.aloft())
end

-- Ends the deliveries to an endpoint until somebody enables it again; what waits for it goes on waiting.
local function disable_webhook(ws, webhook, reason, audit)
  local record = K.webhook(ws, webhook)
  count_wants(ws, redis.call('HGET', record, 'events'), -1)
  redis.call('HSET', record, 'state', 'disabled', 'disabled_reason', reason)
  redis.call('HINCRBY', record, 'revision', 1)
  settle_due(ws, webhook)
  note_audit(ws, audit)
end
