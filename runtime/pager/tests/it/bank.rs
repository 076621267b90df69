//! Files full of experts whose every byte is known.

use std::fs::File;
use std::path::PathBuf;

use membrane_pager::{
    ByteRange, Catalog, EvictionPolicy, ExpertKey, IoMode, Lease, PagedFile, Pager, PagerConfig, Record,
};

/// A small generator, so that failures can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Some distinct numbers below `limit`, in random order.
    pub fn distinct(&mut self, count: usize, limit: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..limit).collect();
        for at in 0..count {
            let other = at + self.below((all.len() - at) as u64) as usize;
            all.swap(at, other);
        }
        all.truncate(count);
        all
    }
}

pub const MODES: [IoMode; 3] = [IoMode::Direct, IoMode::Buffered, IoMode::Auto];

/// The files, their contents, and where the experts lie in them.
pub struct Bank {
    pub folder: tempfile::TempDir,
    pub files: Vec<PagedFile>,
    contents: Vec<Vec<u8>>,
    groups: Vec<Vec<Record>>,
}

impl Bank {
    /// `groups[g]` experts in group g, each with a part in every one of `files` files, of random length up to
    /// `part_bytes`, packed without any alignment to the very end of the file.
    pub fn new(files: usize, groups: &[usize], part_bytes: u64) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut contents = vec![Vec::new(); files];
        let mut all = Vec::new();
        for &experts in groups {
            let mut records = Vec::new();
            for _ in 0..experts {
                let mut parts = Vec::new();
                for (file, content) in contents.iter_mut().enumerate() {
                    content.resize(content.len() + random.below(50) as usize, 0xee);
                    let (offset, bytes) = (content.len() as u64, 1 + random.below(part_bytes));
                    content.extend((0..bytes).map(|_| random.below(256) as u8));
                    parts.push(ByteRange { file, offset, bytes });
                }
                records.push(Record { parts });
            }
            all.push(records);
        }
        let folder = tempfile::tempdir().unwrap();
        let write = |(number, content): (usize, &Vec<u8>)| {
            let path = folder.path().join(format!("experts-{number}"));
            std::fs::write(&path, content).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            PagedFile::open(&path).unwrap()
        };
        let files = contents.iter().enumerate().map(write).collect();
        Self { folder, files, contents, groups: all }
    }

    pub fn path(&self, file: usize) -> PathBuf {
        self.files[file].path.clone()
    }

    pub fn content(&self, file: usize) -> &[u8] {
        &self.contents[file]
    }

    pub fn record(&self, key: ExpertKey) -> &Record {
        &self.groups[key.group as usize][key.index as usize]
    }

    pub fn catalog(&self) -> Catalog {
        Catalog::new(self.groups.clone()).unwrap()
    }

    /// A pager with so many slots that evicts what was used longest ago.
    pub fn pager(&self, slots: usize, io: IoMode) -> Pager {
        self.pager_by(EvictionPolicy::Lru, slots, io)
    }

    /// The same with another policy.
    pub fn pager_by(&self, eviction: EvictionPolicy, slots: usize, io: IoMode) -> Pager {
        let catalog = self.catalog();
        let mut config = PagerConfig::new(catalog.slot_bytes() * slots as u64);
        config.io = io;
        config.eviction = eviction.start();
        let pager = Pager::open(&self.files, catalog, config).unwrap();
        assert_eq!(pager.slots(), slots.min(pager.catalog().experts()));
        pager
    }

    /// Compares every byte of a lease with the files.
    pub fn check(&self, lease: &Lease) {
        let record = self.record(lease.key());
        assert_eq!(lease.parts().count(), record.parts.len());
        for (number, (found, part)) in lease.parts().zip(&record.parts).enumerate() {
            let start = part.offset as usize;
            let right = &self.contents[part.file][start..start + part.bytes as usize];
            assert!(found == right, "part {number} of {:?}", lease.key());
            assert!(lease.part(number) == right);
        }
    }

    /// Asks for experts, checks each as it comes and gives it back; returns them in the order of arrival.
    pub fn fetch(&self, pager: &Pager, group: u32, wanted: &[u32]) -> Vec<u32> {
        let mut seen = Vec::new();
        let mut request = pager.request(group, wanted);
        while let Some(ready) = request.next_ready().unwrap() {
            assert!(!ready.leases.is_empty());
            for lease in ready.leases {
                assert_eq!(lease.key().group, group);
                self.check(&lease);
                seen.push(lease.index());
            }
        }
        assert!(request.next_ready().unwrap().is_none(), "the end is the end");
        let (mut sorted, mut expected) = (seen.clone(), wanted.to_vec());
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        seen
    }
}
