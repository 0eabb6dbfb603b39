-- Adds to the audit log what was tried in the vault. ARGV: ws, credential ('' none), entry
note_vault(ARGV[1], ARGV[2], ARGV[3])
