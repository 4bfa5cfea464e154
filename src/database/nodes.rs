//! All nodes at once: sums over the tables, made by the database itself, and the removal of a node.
//!
//! Nothing here looks at a directory. A row may be a ghost on its node, and images may be orphans there.
//!
//! **Removing a node** deletes its rows in portions, each in a transaction of its own, and last the node
//! itself. Killed in between, the node is still there with the rest of its rows, and removing it again goes
//! on from there.

use std::collections::HashMap;

use super::cell::Cell;
use super::{CHUNK, Database, PAGE, joined};
use crate::database::refusal::Refusal;
use crate::units::Nanos;

/// The sums of one node's rows.
#[derive(Clone, Debug)]
pub(crate) struct NodeSummary {
    pub(crate) key: i64,
    pub(crate) url: String,
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) oldest_use: Option<Nanos>,
    pub(crate) newest_use: Option<Nanos>,
}

/// An image, and how many nodes have it.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    pub(crate) image_id: String,
    pub(crate) nodes: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
}

/// An image on one node.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) image_id: String,
    pub(crate) node: String,
    pub(crate) size: u64,
    pub(crate) hits: i64,
    /// Epoch seconds.
    pub(crate) last_accessed: f64,
    pub(crate) last_modified: f64,
    pub(crate) checksum: Option<String>,
}

/// The images of all nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    pub(crate) different: u64,
    pub(crate) on_one_node: u64,
    /// The images that several nodes have, most nodes first.
    pub(crate) most: Vec<Copies>,
    /// The largest of the images that only one node has, as far as they are among the largest of all.
    pub(crate) only: Vec<Copies>,
}

/// Returns a count or size, which is never negative. A sum beyond the largest of them is the largest.
fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl Database {
    /// Returns the URLs of all nodes in their order.
    pub(crate) fn node_urls(&mut self) -> Result<Vec<String>, Refusal> {
        let sql = "SELECT node_reference_url FROM node_reference ORDER BY node_reference_url";
        let rows = self.query(sql, &[]).map_err(|refusal| self.told(refusal, "cannot list the nodes"))?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).map(Cell::text).collect())
    }

    /// Returns the sums of each node, ordered by URL.
    pub(crate) fn summaries(&mut self) -> Result<Vec<NodeSummary>, Refusal> {
        let dialect = self.dialect();
        // The sums are made before the join, because a key is shorter than a URL. They need one pass over the
        // table; over the index on the nodes each row would be looked up by itself.
        let sql = format!(
            "SELECT n.node_reference_id, n.node_reference_url, COALESCE(c.images, 0), {}, {}, {}, {} \
             FROM node_reference n LEFT JOIN (SELECT node_reference_id, COUNT(*) AS images, \
             SUM(size) AS bytes, SUM(hits) AS hits, MIN(last_accessed) AS oldest, \
             MAX(last_accessed) AS newest FROM {} GROUP BY node_reference_id) c \
             ON c.node_reference_id = n.node_reference_id ORDER BY n.node_reference_url",
            dialect.sum("COALESCE(c.bytes, 0)"),
            dialect.sum("COALESCE(c.hits, 0)"),
            dialect.epoch("c.oldest"),
            dialect.epoch("c.newest"),
            dialect.by_key(),
        );
        let rows = self.query(&sql, &[]).map_err(|refusal| self.told(refusal, "cannot sum up the nodes"))?;
        let summary = |row: Vec<Cell>| NodeSummary {
            key: row[0].integer(),
            images: natural(row[2].integer()),
            bytes: natural(row[3].integer()),
            hits: natural(row[4].integer()),
            oldest_use: row[5].time(dialect),
            newest_use: row[6].time(dialect),
            url: row.into_iter().nth(1).map(Cell::text).unwrap_or_default(),
        };
        Ok(rows.into_iter().map(summary).collect())
    }

    /// Returns how the images are spread over the nodes. Of the images that most nodes have, and of the
    /// largest that only one node has, at most `count` are named.
    ///
    /// The counts need only the index on the image ids; sizes are looked up for the few images that are
    /// named.
    pub(crate) fn spread(&mut self, count: usize) -> Result<Spread, Refusal> {
        self.try_spread(count).map_err(|refusal| self.told(refusal, "cannot sum up the images"))
    }

    fn try_spread(&mut self, count: usize) -> Result<Spread, Refusal> {
        let sql = format!(
            "SELECT COUNT(*), {} \
             FROM (SELECT image_id, COUNT(*) AS nodes FROM cached_images GROUP BY image_id) i",
            self.dialect().whole("COALESCE(SUM(CASE WHEN nodes = 1 THEN 1 ELSE 0 END), 0)"),
        );
        let sums = self.query(&sql, &[])?;
        let number = |n: usize| sums.first().map_or(0, |row| natural(row[n].integer()));
        let mut most = self.copies(&format!(
            "SELECT image_id, COUNT(*) AS nodes FROM cached_images GROUP BY image_id HAVING COUNT(*) > 1 \
             ORDER BY nodes DESC, image_id LIMIT {count}"
        ))?;
        most.sort_by(|a, b| b.nodes.cmp(&a.nodes).then_with(|| a.image_id.cmp(&b.image_id)));
        let mut only = self.copies(&format!(
            "SELECT image_id FROM cached_images ORDER BY size DESC, image_id LIMIT {CHUNK}"
        ))?;
        only.retain(|image| image.nodes == 1);
        only.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.image_id.cmp(&b.image_id)));
        only.truncate(count);
        Ok(Spread { different: number(0), on_one_node: number(1), most, only })
    }

    /// Returns the sums of the images that a query names in its first column.
    fn copies(&mut self, sql: &str) -> Result<Vec<Copies>, Refusal> {
        let ids: Vec<String> = self
            .query(sql, &[])?
            .into_iter()
            .filter_map(|row| row.into_iter().next())
            .map(Cell::text)
            .collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let dialect = self.dialect();
        let sql = format!(
            "SELECT image_id, COUNT(*), {}, {} FROM cached_images WHERE image_id IN ({}) GROUP BY image_id",
            dialect.whole("MAX(size)"),
            dialect.sum("SUM(hits)"),
            vec!["?"; ids.len()].join(",")
        );
        let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
        let copies = |row: Vec<Cell>| Copies {
            nodes: natural(row[1].integer()),
            bytes: natural(row[2].integer()),
            hits: natural(row[3].integer()),
            image_id: row.into_iter().next().map(Cell::text).unwrap_or_default(),
        };
        Ok(self.query(&sql, &texts)?.into_iter().map(copies).collect())
    }

    /// Returns every row, or those of one image, in row order.
    pub(crate) fn placements(&mut self, image: Option<&str>) -> Result<Vec<Placement>, Refusal> {
        let told = |this: &Self, refusal| this.told(refusal, "cannot list the images");
        let dialect = self.dialect();
        // Rows and nodes are joined here. MariaDB would begin with the nodes, and sort all rows for every
        // page.
        let from = match image {
            Some(_) => "cached_images WHERE image_id = ? AND".to_owned(),
            None => format!("{} WHERE", dialect.by_key()),
        };
        let mut found = Vec::new();
        let mut last = i64::MIN;
        loop {
            let sql = format!(
                "SELECT id, image_id, node_reference_id, size, hits, {}, {}, checksum \
                 FROM {from} id > {last} ORDER BY id LIMIT {PAGE}",
                dialect.epoch("last_accessed"),
                dialect.epoch("last_modified"),
            );
            let texts: Vec<&str> = image.into_iter().collect();
            let rows = self.query(&sql, &texts).map_err(|refusal| told(self, refusal))?;
            let count = rows.len();
            last = rows.last().map_or(last, |row| row[0].integer());
            found.extend(rows);
            if count < PAGE {
                break;
            }
        }
        // The nodes are read after the rows, so that none of a row's is missing.
        let sql = "SELECT node_reference_id, node_reference_url FROM node_reference";
        let nodes: HashMap<i64, String> = self
            .query(sql, &[])
            .map_err(|refusal| told(self, refusal))?
            .into_iter()
            .filter_map(|row| {
                let [key, url] = row.try_into().ok()?;
                Some((Cell::integer(&key), url.text()))
            })
            .collect();
        let placement = |row: Vec<Cell>| {
            let [_, image_id, node, size, hits, used, modified, checksum] = row.try_into().ok()?;
            Some(Placement {
                image_id: Cell::text(image_id),
                node: nodes.get(&node.integer())?.clone(),
                size: natural(size.integer()),
                hits: hits.integer(),
                last_accessed: used.epoch(dialect),
                last_modified: modified.epoch(dialect),
                checksum: (checksum != Cell::Null).then(|| checksum.text()),
            })
        };
        Ok(found.into_iter().filter_map(placement).collect())
    }
}

/// The result of removing a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forgotten {
    pub(crate) rows: u64,
    /// The sum of the sizes in these rows.
    pub(crate) bytes: u64,
    /// True if the node itself was removed from the database.
    pub(crate) reference: bool,
}

impl Database {
    /// Deletes all rows of a node, a portion in each transaction, then the node itself unless something still
    /// refers to it.
    ///
    /// Returns an error together with what was done before it.
    pub(crate) fn forget_node(mut self, node: i64) -> (Forgotten, Option<Refusal>) {
        let mut done = Forgotten::default();
        loop {
            match self.forget_portion(node) {
                Ok((0, _)) => break,
                Ok((rows, bytes)) => {
                    done.rows += rows;
                    done.bytes = done.bytes.saturating_add(bytes);
                }
                Err(refusal) => return (done, Some(refusal)),
            }
            if self.wait.interrupt.raised() {
                return (done, Some(Refusal::Interrupted));
            }
        }
        match self.forget_reference(node) {
            Ok(gone) => done.reference = gone,
            Err(refusal) => return (done, Some(refusal)),
        }
        (done, None)
    }

    /// Runs a change in the open transaction, which begins again after a conflict with another process.
    fn change<T>(
        &mut self,
        what: &str,
        mut run: impl FnMut(&mut Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let deadline = self.wait.deadline();
        loop {
            match run(self) {
                Ok(value) => return Ok(value),
                Err(refusal) => self.start_again(refusal, deadline, what)?,
            }
        }
    }

    /// Deletes a portion of a node's rows, and returns how many and the sum of their sizes.
    fn forget_portion(&mut self, node: i64) -> Result<(u64, u64), Refusal> {
        let sql = format!(
            "SELECT id, size FROM cached_images WHERE node_reference_id = {node} ORDER BY id LIMIT {}",
            4 * CHUNK
        );
        self.begin()?;
        let rows = self.change("cannot delete the rows of the node", |database| {
            let rows = database.query(&sql, &[])?;
            let keys: Vec<i64> = rows.iter().filter_map(|row| Some(row.first()?.integer())).collect();
            let sizes = rows.iter().filter_map(|row| Some(natural(row.get(1)?.integer())));
            let bytes = sizes.fold(0, u64::saturating_add);
            let mut deleted = 0;
            for chunk in keys.chunks(CHUNK) {
                let delete = database.dialect().delete();
                let sql = format!("{delete} WHERE id IN ({}) AND node_reference_id = {node}", joined(chunk));
                deleted += database.execute(&sql)?;
            }
            database.commit()?;
            Ok((deleted, bytes))
        });
        rows.inspect_err(|_| self.rollback())
    }

    /// Deletes the node itself, and returns false if something still refers to it.
    fn forget_reference(&mut self, node: i64) -> Result<bool, Refusal> {
        // A foreign key refuses while a row refers to the node. Where there is none (SQLite by default) the
        // condition does.
        let sql = format!(
            "DELETE FROM node_reference WHERE node_reference_id = {node} \
             AND NOT EXISTS (SELECT 1 FROM cached_images c WHERE c.node_reference_id = {node})"
        );
        self.begin()?;
        let deleted = self.change("cannot delete the node", |database| {
            let deleted = database.execute(&sql)?;
            database.commit()?;
            Ok(deleted > 0)
        });
        match deleted.inspect_err(|_| self.rollback()) {
            Err(Refusal::Broken(e)) if is_referred_to(&e) => Ok(false),
            result => result,
        }
    }
}

/// True if a foreign key of another table kept a row from being deleted.
fn is_referred_to(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["error 1451:", "error 23503:", "FOREIGN KEY constraint failed"].iter().any(|sign| text.contains(sign))
}
