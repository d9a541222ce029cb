"""Data sets of video anomaly detection: their annotation files, read completely, and what of them is on disk.

Events are (start, end) in frames, 0-based with the end exclusive, whatever the file counts from; a normal
video has none. Videos are named without folders and without the ending of the file; nothing else is cut
from a name, for names hold dots, `=` and `#`. Labels and classes are looked up whole, never searched for in a name.
"""

from __future__ import annotations

from headprobe._files import read_text
from headprobe.datasets._annotations import Found, Listing, list_folder, name_of, parse_frame_counts, parse_list
from headprobe.datasets._tables import from_folders, from_table
from headprobe.datasets.catalogue import DATASETS, load_dataset, match_videos, read_truth
from headprobe.datasets.check import Check, check_dataset
from headprobe.datasets.pedestrians import parse_ped2_ground_truth, ped2, shanghaitech
from headprobe.datasets.tad import TAD_CLASSES, parse_tad, tad
from headprobe.datasets.ucf_crime import UCF_CRIME_CLASSES, temporal, ucf_crime
from headprobe.datasets.videos import NORMAL, Dataset, Video, frame_labels
from headprobe.datasets.xd_violence import XD_VIOLENCE_CLASSES, xd_violence, xd_violence_classes

__all__ = [
    "DATASETS",
    "NORMAL",
    "TAD_CLASSES",
    "UCF_CRIME_CLASSES",
    "XD_VIOLENCE_CLASSES",
    "Check",
    "Dataset",
    "Found",
    "Listing",
    "Video",
    "check_dataset",
    "frame_labels",
    "from_folders",
    "from_table",
    "list_folder",
    "load_dataset",
    "match_videos",
    "name_of",
    "parse_frame_counts",
    "parse_list",
    "parse_ped2_ground_truth",
    "parse_tad",
    "ped2",
    "read_text",
    "read_truth",
    "shanghaitech",
    "tad",
    "temporal",
    "ucf_crime",
    "xd_violence",
    "xd_violence_classes",
]
