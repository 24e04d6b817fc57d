"""SNOMED CT codes and display colours of what segmentations name.

Codes and meanings are those of DICOM's own context groups (PS3.16: CID 7150, 7151, 7159, 244, 2, …). Those in
``OUTSIDE_CONTEXT_GROUPS`` are SNOMED CT codes that the context groups do not list: of ribs and S1 as in HL7's
radiotherapy structure names (AAPM TG-263 mapped to SNOMED CT), of the others as in TotalSegmentator's published
terminology. Colours are the generic anatomy colours of 3D Slicer, so that a SEG looks there as its terminology would
show it.
"""

from __future__ import annotations

__all__ = ["CATEGORIES", "LATERALITY", "MODIFIERS", "OUTSIDE_CONTEXT_GROUPS", "STRUCTURES"]

RGB = tuple[int, int, int]

ARTERY, VEIN, BONE, MUSCLE, BRAIN = (216, 101, 79), (0, 151, 206), (241, 214, 145), (192, 104, 88), (250, 250, 225)
RIB, LIMB_BONE, CERVICAL, THORACIC, LUMBAR = (253, 232, 158), (255, 238, 170), (255, 255, 207), (226, 202, 134), (212, 188, 102)  # fmt: skip  # noqa: E501
VENTRICLE, LUNG, MASS, GLAND = (88, 106, 215), (197, 165, 145), (144, 238, 144), (70, 163, 117)

# CID 7150.
CATEGORIES = {
    "anatomy": ("91723000", "Anatomical Structure"),
    "tissue": ("85756007", "Tissue"),
    "morphology": ("49755003", "Morphologically Abnormal Structure"),
    "substance": ("91720002", "Body Substance"),
    "object": ("260787004", "Physical object"),
}

# CID 244. One-letter forms are how RTSTRUCT and head-and-neck data sets write it.
LATERALITY = {
    "left": ("7771000", "Left"),
    "right": ("24028007", "Right"),
    "lt": ("7771000", "Left"),
    "rt": ("24028007", "Right"),
    "l": ("7771000", "Left"),
    "r": ("24028007", "Right"),
    "bilateral": ("51440002", "Bilateral"),
}

# CID 2.
MODIFIERS = {
    "anterior": ("255549009", "Anterior"),
    "posterior": ("255551008", "Posterior"),
    "superior": ("264217000", "Superior"),
    "inferior": ("261089000", "Inferior"),
    "medial": ("255561001", "Medial"),
    "lateral": ("49370004", "Lateral"),
}

# Names (words in any order, parted by "|"), category, code, meaning, colour. A code is of SNOMED CT, or of the NCI
# Thesaurus where it begins with a C, as CID 7168 has them for parts of brain lesions.
_ORGANS: tuple[tuple[str, str, str, str, RGB], ...] = (
    ("liver", "anatomy", "10200004", "Liver", (221, 130, 101)),
    ("spleen", "anatomy", "78961009", "Spleen", (157, 108, 162)),
    ("kidney", "anatomy", "64033007", "Kidney", (185, 102, 83)),
    ("pancreas", "anatomy", "15776009", "Pancreas", (249, 180, 111)),
    ("gallbladder|gall bladder", "anatomy", "28231008", "Gallbladder", (139, 150, 98)),
    ("adrenal gland|adrenal", "anatomy", "23451007", "Adrenal gland", (249, 186, 150)),
    ("esophagus|oesophagus", "anatomy", "32849002", "Esophagus", (211, 171, 143)),
    ("stomach", "anatomy", "69695003", "Stomach", (216, 132, 105)),
    ("duodenum", "anatomy", "38848004", "Duodenum", (255, 253, 229)),
    ("small bowel|small intestine", "anatomy", "30315005", "Small intestine", (205, 167, 142)),
    ("colon", "anatomy", "71854001", "Colon", (204, 168, 143)),
    ("large intestine|large bowel", "anatomy", "14742008", "Large intestine", (204, 168, 143)),
    ("sigmoid|sigmoid colon", "anatomy", "60184004", "Sigmoid colon", (204, 168, 143)),
    ("rectum", "anatomy", "34402009", "Rectum", (255, 224, 199)),
    ("urinary bladder|bladder", "anatomy", "89837001", "Bladder", (222, 154, 132)),
    ("ureter", "anatomy", "87953007", "Ureter", (247, 182, 164)),
    ("prostate", "anatomy", "41216001", "Prostate", (230, 158, 140)),
    (
        "prostate peripheral zone|peripheral zone",
        "anatomy",
        "279706003",
        "Peripheral zone of the prostate",
        (230, 158, 140),
    ),
    (
        "prostate transition zone|transition zone",
        "anatomy",
        "399384005",
        "Transition zone of the prostate",
        (216, 146, 127),
    ),
    ("seminal vesicle", "anatomy", "64739004", "Seminal Vesicle", (245, 172, 147)),
    ("uterus", "anatomy", "35039007", "Uterus", (255, 181, 158)),
    ("ovary", "anatomy", "15497006", "Ovary", (213, 141, 113)),
    ("breast", "anatomy", "76752008", "Breast", (177, 122, 101)),
    ("thyroid|thyroid gland", "anatomy", "69748006", "Thyroid", (62, 162, 114)),
    ("thymus", "anatomy", "9875009", "Thymus", (47, 150, 103)),
    ("parotid|parotid gland", "anatomy", "45289007", "Parotid gland", GLAND),
    ("submandibular gland", "anatomy", "54019009", "Submandibular gland", GLAND),
    ("larynx", "anatomy", "4596009", "Larynx", (150, 208, 243)),
    ("pharynx", "anatomy", "54066008", "Pharynx", (184, 105, 108)),
    ("tongue", "anatomy", "21974007", "Tongue", (166, 84, 94)),
    ("eye|eyeball", "anatomy", "79652003", "Eyeball", (194, 142, 0)),
    ("face", "anatomy", "89545001", "Face", (177, 122, 101)),
    ("diaphragm", "anatomy", "5798000", "Diaphragm", MUSCLE),
    ("lung", "anatomy", "39607008", "Lung", LUNG),
    ("lung upper lobe", "anatomy", "45653009", "Upper lobe of lung", (172, 138, 115)),
    ("lung middle lobe", "anatomy", "72481006", "Middle lobe of right lung", (202, 164, 140)),
    ("lung lower lobe", "anatomy", "90572001", "Lower lobe of lung", (224, 186, 162)),
    ("trachea", "anatomy", "44567001", "Trachea", (182, 228, 255)),
    ("bronchus|bronchi", "anatomy", "955009", "Bronchus", (175, 216, 244)),
    ("mediastinum", "anatomy", "72410000", "Mediastinum", (255, 244, 209)),
    ("body|body outline|external", "anatomy", "38266002", "Entire body", (177, 122, 101)),
)

_VESSELS: tuple[tuple[str, str, str, str, RGB], ...] = (
    ("heart", "anatomy", "80891009", "Heart", (206, 110, 84)),
    ("heart myocardium|myocardium", "anatomy", "74281007", "Myocardium", (206, 110, 84)),
    ("heart atrium left|left atrium", "anatomy", "82471001", "Left atrium", (203, 108, 81)),
    ("heart atrium right|right atrium", "anatomy", "73829009", "Right atrium", (210, 115, 89)),
    ("heart ventricle left|left ventricle", "anatomy", "87878005", "Left ventricle", (152, 55, 13)),
    ("heart ventricle right|right ventricle", "anatomy", "53085002", "Right ventricle", (181, 85, 57)),
    (
        "atrial appendage left|left auricular appendage",
        "anatomy",
        "33626005",
        "Left auricular appendage",
        (203, 108, 81),
    ),
    ("pericardium", "anatomy", "76848001", "Pericardium", (255, 244, 209)),
    ("aorta", "anatomy", "15825003", "Aorta", (224, 97, 76)),
    ("coronary artery|coronary arteries", "anatomy", "41801008", "Coronary artery", ARTERY),
    ("pulmonary artery", "anatomy", "81040000", "Pulmonary artery", (0, 122, 171)),
    ("pulmonary vein", "anatomy", "122972007", "Pulmonary vein", (186, 77, 64)),
    ("brachiocephalic trunk", "anatomy", "12691009", "Innominate artery", ARTERY),
    ("subclavian artery", "anatomy", "36765005", "Subclavian artery", ARTERY),
    ("common carotid artery", "anatomy", "32062004", "Common carotid artery", ARTERY),
    ("carotid artery", "anatomy", "69105007", "Carotid Artery", ARTERY),
    ("iliac artery|common iliac artery", "anatomy", "73634005", "Common iliac artery", ARTERY),
    ("hepatic artery", "anatomy", "76015000", "Hepatic artery", ARTERY),
    ("renal artery", "anatomy", "2841007", "Renal artery", ARTERY),
    ("brachiocephalic vein", "anatomy", "8887007", "Brachiocephalic vein", VEIN),
    ("superior vena cava|svc", "anatomy", "48345005", "Superior vena cava", VEIN),
    ("inferior vena cava|ivc|postcava", "anatomy", "64131007", "Inferior vena cava", VEIN),
    ("portal vein", "anatomy", "32764006", "Portal vein", VEIN),
    ("splenic vein", "anatomy", "35819009", "Splenic vein", VEIN),
    ("portal vein and splenic vein", "anatomy", "110765007", "Portal vein and splenic vein", VEIN),
    ("hepatic vein", "anatomy", "8993003", "Hepatic vein", VEIN),
    ("renal vein", "anatomy", "56400007", "Renal vein", VEIN),
    ("iliac vena|iliac vein|common iliac vein", "anatomy", "46027005", "Common iliac vein", VEIN),
    ("hepatic vessel|lung vessel|vessel|blood vessel", "anatomy", "59820001", "Blood Vessel", ARTERY),
)

_BRAIN: tuple[tuple[str, str, str, str, RGB], ...] = (
    ("brain", "anatomy", "12738006", "Brain", BRAIN),
    ("hippocampus", "anatomy", "5366008", "Hippocampus", (200, 200, 215)),
    ("amygdala", "anatomy", "4958002", "Amygdala", (98, 153, 112)),
    ("thalamus", "anatomy", "42695009", "Thalamus", (166, 113, 137)),
    ("caudate|caudate nucleus", "anatomy", "11000004", "Caudate Nucleus", (30, 111, 85)),
    ("putamen", "anatomy", "89278009", "Putamen", (210, 157, 166)),
    ("pallidum|globus pallidus", "anatomy", "14738005", "Globus Pallidus", (48, 129, 126)),
    ("accumbens|nucleus accumbens", "anatomy", "427667007", "Nucleus Accumbens", (177, 140, 190)),
    ("brainstem|brain stem", "anatomy", "119238007", "Brain Stem", (145, 92, 109)),
    ("cerebellum", "anatomy", "113305005", "Cerebellum", (194, 195, 164)),
    ("corpus callosum", "anatomy", "88442005", "Corpus callosum", (97, 113, 158)),
    ("cerebral cortex|cortex", "anatomy", "40146001", "Cerebral cortex", (128, 174, 128)),
    ("white matter", "anatomy", "389080008", "White Matter", (250, 250, 210)),
    ("cerebral white matter", "anatomy", "68523003", "Cerebral White Matter", BRAIN),
    ("gray matter|grey matter", "anatomy", "389081007", "Gray Matter", (200, 200, 235)),
    ("lateral ventricle", "anatomy", "66720007", "Lateral Ventricle", VENTRICLE),
    ("third ventricle|ventricle 3", "anatomy", "49841001", "Third ventricle", VENTRICLE),
    ("fourth ventricle|ventricle 4", "anatomy", "35918002", "Fourth Ventricle", VENTRICLE),
    ("csf|cerebrospinal fluid", "anatomy", "65216001", "Cerebrospinal Fluid", (85, 188, 255)),
    ("optic chiasm|chiasm", "anatomy", "244453006", "Optic chiasm", (99, 106, 24)),
    ("pituitary|pituitary gland", "anatomy", "56329008", "Pituitary", (57, 157, 110)),
    ("spinal cord", "anatomy", "2748008", "Spinal cord", (244, 214, 49)),
)

_BONES: tuple[tuple[str, str, str, str, RGB], ...] = (
    ("bone", "tissue", "3138006", "Bone", BONE),
    ("spine|vertebral column", "anatomy", "421060004", "Spine", THORACIC),
    ("vertebra|vertebrae", "anatomy", "51282000", "Vertebra", THORACIC),
    ("sacrum", "anatomy", "54735007", "Sacrum", (217, 198, 131)),
    ("coccyx", "anatomy", "64688005", "Coccyx", (217, 198, 131)),
    ("rib", "anatomy", "113197003", "Rib", RIB),
    ("costal cartilage", "anatomy", "50016007", "Costal Cartilage", (111, 184, 210)),
    ("sternum", "anatomy", "56873002", "Sternum", (244, 217, 154)),
    ("clavicle|clavicula", "anatomy", "51299004", "Clavicle", (205, 179, 108)),
    ("scapula", "anatomy", "79601000", "Scapula", (198, 175, 125)),
    ("humerus", "anatomy", "85050009", "Humerus", (198, 175, 125)),
    ("hip", "anatomy", "29836001", "Hip", LIMB_BONE),
    ("femur", "anatomy", "71341001", "Femur", LIMB_BONE),
    ("patella", "anatomy", "64234005", "Patella", LIMB_BONE),
    ("tibia", "anatomy", "12611008", "Tibia", LIMB_BONE),
    ("fibula", "anatomy", "87342007", "Fibula", LIMB_BONE),
    ("skull", "anatomy", "89546000", "Skull", (241, 213, 144)),
    ("mandible", "anatomy", "91609006", "Mandible", (222, 198, 101)),
    ("maxilla", "anatomy", "70925003", "Maxilla", (196, 172, 68)),
)

_TISSUES: tuple[tuple[str, str, str, str, RGB], ...] = (
    ("muscle", "tissue", "91727004", "Muscle", MUSCLE),
    ("skeletal muscle", "anatomy", "127954009", "Skeletal muscle", MUSCLE),
    ("gluteus maximus", "anatomy", "206007", "Gluteus maximus muscle", MUSCLE),
    ("gluteus medius", "anatomy", "78333006", "Gluteus medius muscle", MUSCLE),
    ("gluteus minimus", "anatomy", "75297007", "Gluteus minimus muscle", MUSCLE),
    ("autochthon", "anatomy", "244849004", "Deep muscle of back", MUSCLE),
    ("iliopsoas", "anatomy", "68455001", "Iliopsoas muscle", MUSCLE),
    ("fat|adipose tissue", "tissue", "55603005", "Fat", (230, 220, 70)),
    ("subcutaneous fat", "tissue", "67769002", "Subcutaneous fatty tissue", (230, 220, 70)),
    ("skin", "tissue", "39937001", "Skin", (177, 122, 101)),
    ("lymph node", "anatomy", "59441001", "Lymph Node", (68, 172, 100)),
    ("tumor|tumour|neoplasm|gtv|cancer", "morphology", "108369006", "Neoplasm", MASS),
    ("lesion", "morphology", "52988006", "Lesion", MASS),
    ("mass", "morphology", "4147007", "Mass", MASS),
    ("nodule", "morphology", "27925004", "Nodule", MASS),
    ("cyst", "morphology", "367643001", "Cyst", (205, 205, 100)),
    ("edema|oedema", "morphology", "79654002", "Edema", (140, 224, 228)),
    ("necrosis|necrotic core", "morphology", "6574001", "Necrosis", (216, 191, 216)),
    ("enhancing|enhancing tumor|enhancing tumour|enhancing lesion", "morphology", "C113842", "Enhancing Lesion", MASS),
    ("non enhancing lesion|non enhancing tumor", "morphology", "C81175", "Non-Enhancing Lesion", MASS),
    ("hemorrhage|haemorrhage|bleeding", "morphology", "50960005", "Hemorrhage", (188, 65, 28)),
    ("abscess", "morphology", "44132006", "Abscess", (205, 205, 100)),
    ("thrombus", "morphology", "396339007", "Thrombus", (145, 60, 66)),
    ("implant", "object", "40388003", "Implant", (220, 245, 20)),
)

_VERTEBRAE = {
    "C": ("14806007", "39976000", "113205007", "5329002", "36978003", "36054005", "87391001"),
    "T": ("64864005", "53733008", "1626008", "73071006", "56401006", "45296009", "62487009", "11068009", "82687006",
          "7610001", "12989004", "23215003"),
    "L": ("66794005", "14293000", "36470004", "11994002", "49668003"),
}  # fmt: skip
_VERTEBRA_COLORS = {"C": CERVICAL, "T": THORACIC, "L": LUMBAR}
_RIBS = ("48535007", "78247007", "25888004", "25523003", "15339008", "59558009", "24915002", "5953002", "22565002",
         "77644006", "58830002", "43993008")  # fmt: skip
_ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth", "Sixth", "Seventh", "Eighth", "Ninth", "Tenth", "Eleventh",
             "Twelfth")  # fmt: skip

STRUCTURES: tuple[tuple[str, str, str, str, RGB], ...] = (
    *_ORGANS, *_VESSELS, *_BRAIN, *_BONES, *_TISSUES,
    *((f"vertebra {part}{n}|vertebrae {part}{n}", "anatomy", code, f"{part}{n} vertebra", _VERTEBRA_COLORS[part])
      for part, codes in _VERTEBRAE.items() for n, code in enumerate(codes, start=1)),
    ("vertebra S1|vertebrae S1", "anatomy", "65985001", "S1 vertebra", (217, 198, 131)),
    *((f"rib {n}", "anatomy", code, f"{ordinal} rib", RIB)
      for n, (code, ordinal) in enumerate(zip(_RIBS, _ORDINALS, strict=True), start=1)),
)  # fmt: skip

OUTSIDE_CONTEXT_GROUPS = frozenset({
    "74281007", "110765007", "65985001", "206007", "78333006", "75297007", "244849004", "68455001", "67769002",
    *_RIBS,
})  # fmt: skip
