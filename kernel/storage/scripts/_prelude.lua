-- Shared by all scripts: KEYS[1] is the shard's prefix, K and C name keys and channels.

local function server_now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Puts one event into an execution's stream; the explicit id makes a repeated or missing seq impossible.
local function append(ws, id, seq, event)
  redis.call('XADD', K.events(ws, id), seq .. '-1', 'e', event)
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

local function wake()
  if redis.call('LLEN', K.wake()) == 0 then redis.call('LPUSH', K.wake(), '1') end
end

local function set_agent_status(ws, agent, status)
  local old = redis.call('HGET', K.agent(ws, agent), 'status')
  if not old or old == status then return end
  redis.call('ZREM', K.agents_by(ws, 'status', old), agent)
  redis.call('ZADD', K.agents_by(ws, 'status', status), 0, agent)
  redis.call('HSET', K.agent(ws, agent), 'status', status)
  redis.call('INCR', K.agents_turn(ws))
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

-- The terminal step: everything that an end changes, in one go. `facts` are further fields of the record; `shown` is
-- the ended execution as callers see it, for whoever waits ('' lets them read it).
local function finish(ws, id, status, now, facts, shown)
  local record = K.execution(ws, id)
  local was = redis.call('HMGET', record, 'agent', 'owner', 'reply_to')
  redis.call('HSET', record, 'status', status, 'phase', '', 'owner', '', 'completed_at', now, unpack(facts))
  redis.call('ZREM', K.executions_by(ws, 'status', 'running'), id)
  redis.call('ZADD', K.executions_by(ws, 'status', status), 0, id)
  redis.call('ZADD', K.ended(), now, ws .. ' ' .. id)
  redis.call('SREM', K.active(ws), id)
  if was[2] and was[2] ~= '' then redis.call('SREM', K.held(was[2]), ws .. ' ' .. id) end
  count_end(ws, was[1] or '', status)
  if was[3] and was[3] ~= '' then redis.call('PUBLISH', C.replies(was[3]), id .. '\n' .. (shown or '')) end
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

-- A page of ids, newest first, of what is in all `sets` (zsets of score 0) and between two lexical bounds.
-- Returns up to limit + 1 ids (the one more tells that there is more) and the total without `before`.
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
  local ids = walk(sets, top, low, offset, limit)
  if all then return ids, redis.call('ZINTERCARD', #sets, unpack(sets)) end
  local total = 0
  for _, id in ipairs(redis.call('ZRANGEBYLEX', sets[1], low, high)) do
    if in_all(sets, id) then total = total + 1 end
  end
  return ids, total
end
