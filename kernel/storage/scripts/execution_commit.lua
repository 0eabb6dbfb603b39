#!lua flags=allow-oom
-- A runner writes events and node records. Refused (0) when the lease is not the writer's any more; a repeated commit
-- (its answer was lost) is known by its seq and is 1 too.
-- ARGV: ws, id, epoch, last seq, now, n events, events…, n nodes, (node id, record)…
local ws, id = ARGV[1], ARGV[2]
local lines, at = take_step(ws, id)
if not lines then return at end
if #lines > 0 then announce(ws, id, ARGV[4] + 1, lines) end
return 1
