#!lua flags=allow-oom
-- Removes an ended execution with all its traces and notes what it had counted, or (archived = 1) hands it over to the
-- archive's counts. ARGV: ws, id, archived (0 or 1)
local ws, id, archived = ARGV[1], ARGV[2], ARGV[3] == '1'
local record = K.execution(ws, id)
local was = redis.call('HMGET', record, 'status', 'agent', 'labels', 'completed_at', 'spent')
if not was[1] then return {'gone'} end
if was[1] == 'running' then return {'running'} end

local function leave(field, value)
  redis.call('ZREM', K.executions_by(ws, field, value), id)
  if archived then redis.call('HINCRBY', K.archived(ws), field .. ':' .. value, 1) end
end
redis.call('ZREM', K.executions(ws), id)
if archived then redis.call('HINCRBY', K.archived(ws), 'all', 1) else note_removed(ws, was[4], was[5]) end
leave('status', was[1])
if was[2] ~= '' then leave('agent', was[2]) end
for label in string.gmatch(was[3], '[^\n]+') do leave('label', label) end
redis.call('ZREM', K.ended(), ws .. ' ' .. id)
redis.call('DEL', record, K.nodes(ws, id), K.events(ws, id))
return {'ok'}
