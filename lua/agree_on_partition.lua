-- Stores how the engine maps codes to slots, or returns the mapping that an earlier engine of the prefix has stored.
-- KEYS
--   vs:partition  STRING  the fingerprint of the mapping
-- ARGV
--   fingerprint   the fingerprint of this engine's mapping
-- Status
--   partition     the fingerprint that is stored
local stored = redis.call('GET', KEYS[1])
if not stored then
  stored = ARGV[1]
  redis.call('SET', KEYS[1], stored)
end
return {'partition', stored}
