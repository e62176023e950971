-- Files of about the same size: among them is what a new file may be like.
CREATE INDEX baselines_size ON baselines (root, size);
