#!lua flags=allow-oom
-- Gives a driver jobs of this shard that nobody runs, under a new epoch: first those of the workspaces that have the
-- fewest running, and of these the oldest. One whose driver was lost counts its documents anew; one that `most` drivers
-- have lost without taking anything in fails.
-- ARGV: driver, lease ms, room for small jobs, room for large ones, large ones of one workspace, most, error as JSON,
--       now (0 is the server's)
local driver, lease, most, problem = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[6]), ARGV[7]
local room, share = {small = tonumber(ARGV[3]), large = tonumber(ARGV[4])}, tonumber(ARGV[5])
local now = tonumber(ARGV[8])
if now == 0 then now = server_now() end

local function split(member)
  local ws, id = string.match(member, '^(%S+) (%S+)$')
  return ws, id, redis.call('HGET', K.job(ws, id), 'size')
end

local running, free, out = {}, redis.call('ZRANGEBYSCORE', K.jobs_running(), '-inf', now), {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', K.jobs_running(), '(' .. now, '+inf')) do
  local ws, _, size = split(member)
  local kind = ws .. ' ' .. (size or '')
  running[kind] = (running[kind] or 0) + 1
end
for _, member in ipairs(redis.call('ZRANGE', K.jobs_waiting(), 0, 999)) do free[#free + 1] = member end

-- The place in `free` of the next job of this size, if there is one.
local function next_of(size)
  local found, fewest
  for i, member in ipairs(free) do
    local ws, _, its = split(member)
    local busy = running[ws .. ' ' .. size] or 0
    if its == size and (size == 'small' or busy < share) and (not fewest or busy < fewest) then
      found, fewest = i, busy
    end
  end
  return found
end

local function take(ws, id)
  local record, member = K.job(ws, id), ws .. ' ' .. id
  local was = redis.call('HMGET', record, 'epoch', 'deliveries', 'started_at', 'collection', 'order', 'key', 'size')
  if tonumber(was[2]) >= most then return finish_job(ws, id, 'failed', now, problem) end
  redis.call('HSET', record, 'status', 'running', 'driver', driver, 'epoch', was[1] + 1, 'deliveries', was[2] + 1,
    'started_at', was[3] or now, 'run_at', now, 'told_at', now, 'listed', '', 'discovered', 0, 'done', 0, 'skipped', 0,
    'failed', 0, 'chunks', 0, 'bytes', 0, 'withdrawn', '')
  redis.call('DEL', K.job_blocks(ws, id))
  for _, outcome in ipairs({'done', 'skipped', 'failed'}) do redis.call('DEL', K.job_documents(ws, id, outcome)) end
  redis.call('ZREM', K.jobs_waiting(), member)
  redis.call('ZADD', K.jobs_running(), now + lease, member)
  tell_job(ws, id, now, {{was[3] and 'job.progress' or 'job.started', job_counts(ws, id)}})
  out[#out + 1] = {ws, id, was[1] + 1, was[4], was[5], was[6], was[7], tonumber(was[2])}
end

for _, size in ipairs({'small', 'large'}) do
  while room[size] > 0 do
    local place = next_of(size)
    if not place then break end
    local ws, id = split(table.remove(free, place))
    running[ws .. ' ' .. size] = (running[ws .. ' ' .. size] or 0) + 1
    room[size] = room[size] - 1
    take(ws, id)
  end
end
return out
