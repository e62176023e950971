-- A renamed file has another path and the same inode.
CREATE INDEX baselines_inode ON baselines (root, inode);
