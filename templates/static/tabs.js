// Tabs from sections: <div data-tabs aria-label="..."> with <section id="..." data-tab="Title">. Without scripts all
// sections are shown, each below its heading.

export function makeTabs(container) {
  const list = document.createElement("div");
  list.className = "tabs";
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", container.getAttribute("aria-label"));
  container.removeAttribute("aria-label");
  container.prepend(list);
  const tabs = [...container.querySelectorAll(":scope > [data-tab]")].map((panel) => addTab(list, panel));
  startTabKeys(list, select);
  select(tabs[0]);
}

function addTab(list, panel) {
  const tab = document.createElement("button");
  tab.type = "button";
  tab.id = `${panel.id}-tab`;
  tab.textContent = panel.dataset.tab;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  panel.querySelector("h3").hidden = true;
  list.append(tab);
  return tab;
}

function select(tab) {
  markSelected(tab);
  for (const each of tab.parentNode.children) {
    document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
  }
}

// Only the selected tab is in the Tab order; arrow keys go to the others (WAI-ARIA Authoring Practices, Tabs).
export function markSelected(tab) {
  for (const each of tab.parentNode.children) {
    each.setAttribute("aria-selected", String(each === tab));
    each.tabIndex = each === tab ? 0 : -1;
  }
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export function startTabKeys(list, choose) {
  list.addEventListener("click", ({ target }) => {
    const tab = target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const tabs = [...list.children], at = tabs.indexOf(event.target);
    const to = { Home: 0, End: tabs.length - 1 }[event.key] ?? (event.key in STEPS ? at + STEPS[event.key] : null);
    if (at < 0 || to === null) return;
    event.preventDefault();
    const tab = tabs[(to + tabs.length) % tabs.length];
    tab.focus();
    choose(tab);
  });
}
