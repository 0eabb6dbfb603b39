#!lua flags=allow-oom
-- Gives one execution back that its runner cannot go on with.
-- ARGV: ws, id, runner, most deliveries, error as JSON, event as JSON
local ws, id, runner, most, problem, event = unpack(ARGV, 1, 6)
local came_to = take_back(ws, id, runner, server_now(), tonumber(most), problem, event)
wake()
return came_to
