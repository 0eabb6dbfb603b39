-- Accepts a job: record, indices and a place in the queue, or nothing. Of a collection the last 1,000 jobs are kept.
-- ARGV: ws, id, collection, order as JSON, size (small or large), key, retry_of, now, most active,
--       idempotency record ('' none), bytes of a day (-1 any), credentials it needs
local ws, id, collection, order, size, key, retry_of, now = unpack(ARGV, 1, 8)
local most = tonumber(ARGV[11])
local record = K.job(ws, id)
if redis.call('EXISTS', record) == 1 then return {'ok'} end
if redis.call('EXISTS', K.collection(ws, collection)) == 0 then return {'gone'} end
if redis.call('SCARD', K.jobs_active(ws)) >= tonumber(ARGV[9]) then return {'full'} end
if most >= 0 and tonumber(redis.call('HGET', K.spend(ws, utc_day(tonumber(now))), 'i') or 0) >= most then
  return {'spent'}
end
for credential in string.gmatch(ARGV[12], '%S+') do
  if not has_credentials(ws, credential) then return {'credential', credential} end
end
if not owns_key(ARGV[10], id) then return {'superseded'} end

redis.call('HSET', record, 'collection', collection, 'order', order, 'size', size, 'key', key, 'retry_of', retry_of,
  'status', 'queued', 'created_at', now, 'driver', '', 'epoch', 0, 'deliveries', 0, 'seq', 0, 'error', '', 'listed', '',
  'discovered', 0, 'done', 0, 'skipped', 0, 'failed', 0, 'deleted', 0, 'chunks', 0, 'bytes', 0)
add_credentials(ws, 'collection ' .. collection, ARGV[12])
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
