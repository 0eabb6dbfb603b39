-- A collection, as `collection_row` has it. ARGV: ws, id
local row = collection_row(ARGV[1], ARGV[2])
return row[1] and row
