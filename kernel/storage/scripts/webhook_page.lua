#!lua flags=no-writes
-- A page of endpoints, newest first. ARGV: ws, before, offset, limit
-- Answer: total, then of up to limit + 1: id and what webhook_read answers.
local ws = ARGV[1]
local ids, total = page({K.webhooks(ws)}, '-', '+', ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
local out = {total}
for _, id in ipairs(ids) do
  local row = redis.call('HMGET', K.webhook(ws, id), 'item', 'revision', 'sealed', 'state', 'disabled_reason',
    'failing_since', 'last', 'rotated_at')
  table.insert(row, 1, id)
  out[#out + 1] = row
end
return out
