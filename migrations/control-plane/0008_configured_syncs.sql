-- The configuration that asks for a sync, for example `node.site-a`: it alone changes and deletes it. None: somebody made it by hand.
ALTER TABLE syncs ADD COLUMN config text;
CREATE INDEX syncs_by_config ON syncs (config) WHERE config IS NOT NULL;
