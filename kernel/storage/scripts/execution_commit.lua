#!lua flags=allow-oom
-- The one way a runner writes: events and node records, and the end if it is the end. Refused (0) when the
-- lease is not the writer's any more; a repeated commit (its answer was lost) is known by its seq and is 1 too.
-- ARGV: ws, id, epoch, last seq, now, n events, events…, n nodes, (node id, record)…, status ('' goes on), shown, facts…
local ws, id, epoch, base, now, events = unpack(ARGV, 1, 6)
local record = K.execution(ws, id)
local was = redis.call('HMGET', record, 'epoch', 'seq', 'status')
base, events = tonumber(base), tonumber(events)
if was[1] ~= epoch then return 0 end
if tonumber(was[2]) == base + events and events > 0 then return 1 end
if tonumber(was[2]) ~= base or was[3] ~= 'running' then return 0 end

local lines = {}
for i = 1, events do
  lines[i] = ARGV[6 + i]
  append(ws, id, base + i, lines[i])
end
if events > 0 then redis.call('HSET', record, 'seq', base + events) end
local at = 7 + events
local nodes = tonumber(ARGV[at])
for i = 1, nodes do redis.call('HSET', K.nodes(ws, id), ARGV[at + 2 * i - 1], ARGV[at + 2 * i]) end
at = at + 2 * nodes + 1
if ARGV[at] ~= '' then
  local facts = {}
  for i = at + 2, #ARGV do facts[#facts + 1] = ARGV[i] end
  finish(ws, id, ARGV[at], now, facts, ARGV[at + 1])
end
if events > 0 then announce(ws, id, base + 1, lines) end
return 1
